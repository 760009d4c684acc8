// Package auth makes and checks the tokens of a development installation: JSON
// Web Tokens signed with one Ed25519 key that the nodes share, as a file or
// wherever its caller keeps the text. It is a [gateway.Verifier] and a
// [gateway.OperatorVerifier].
//
// Authority: whoever can read the key can be anybody. A key file is refused when
// others than its owner may read it.
//
// Invariants: one algorithm (EdDSA), one issuer; an audience for tenants' tokens and
// another for operators', and no token is good for both; exp and nbf are
// required; no header but alg and typ is accepted, so that a token can never name
// the key to check it with; only tokens that passed everything are remembered, and
// never beyond their exp.
package auth

// Package certs is `granary cert`: a development authority, certificates for
// the nodes of a cluster, and a key for their gossip, made by one command. It
// uses the standard library only and knows nothing of a running server.
//
// An installation that has an authority of its own does not need it: what nodes
// ask of a certificate is said in the help of the command.
package certs

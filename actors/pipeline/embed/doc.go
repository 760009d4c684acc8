// Package embed turns text into vectors.
//
// Two implementations have the same methods, so that a consumer can declare the
// interface it needs: [Builtin] runs a small English model inside the process,
// [OpenAI] asks an OpenAI-compatible server.
//
// # Spaces
//
// The built-in model speaks English only. A passage in another language is
// embedded as hashed character n-grams, a vector space of its own
// ([pipeline.SpaceNGrams]); a query whose language is English or unknown is
// embedded in both spaces. A remote model is taken to be multilingual and fills
// [pipeline.SpaceModel] alone.
//
// # Windows
//
// The model blurs long texts, so a passage is cut into overlapping windows of
// [WindowTokens] tokens, each with a vector; a passage scores as its best
// window.
//
// # Invariants
//
// Every vector has the length Dims(), is finite and has unit length. Results
// are in the order of the inputs. A passage has at least one vector unless it is
// blank. With an error, the result is a prefix: what it holds is valid and need
// not be asked for again. All methods are safe for concurrent use.
package embed

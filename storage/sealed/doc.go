// Package sealed encrypts what a store keeps. It stands between the grains and
// a store as a decorator of the ports in actors/journal, and passes their
// conformance suite over every store.
//
//	master key (a file, the environment, or a key service)
//	  └─ wraps the keys of each tenant, one row in tenant_keys
//	       ├─ a keyset for AES-256-GCM (tink): one key seals, all open
//	       └─ a key for hashes, which stays the same as long as the tenant does
//
// Authority: the store's row says which keys a tenant has; a node's copy of them
// is trusted for a few seconds after the last look at what has changed, and a node
// that meets a key it does not know looks at once. What is destroyed in the store is
// therefore unreadable everywhere within [Config.Trust].
//
// A sealed value is a mark, a byte of flags, and tink's ciphertext (which names its
// key). It is bound to what it is and to where it belongs (associated data), so that
// a value moved to another tenant, knowledge base, sequence number or document, or
// put back in another's place, does not open. Large things (blobs, indexes) are a
// row of such values, bound to their place and to where the end is.
//
// What is sealed: the data of events, snapshots, search indexes, recorded responses
// with the hash of their request, blobs with their SHA-256, texts, headings and
// languages of chunks, vectors, and the names of dead letters. Hashes and keys that
// the store must compare (of chunks, of requests' keys) are keyed hashes. What stays
// readable: names of tenants, knowledge bases and documents (they are keys of rows),
// kinds of events, times, counts and sizes, who asked (principal), and which model
// and version were used.
//
// A value that does not open is [journal.ErrCorrupt]: the grain or the document it
// belongs to is out of order alone. Values from before there was encryption are read
// as they are in a store that had content when it got its keys, and only of tenants
// that had content when they got theirs; anywhere else they are forgeries.
package sealed

package kb

import "slices"

// fewDocs is how many documents are found by looking at all. Most knowledge bases have
// few, and the maps of a single one take six hundred bytes.
const fewDocs = 8

// lookup finds documents where they are many.
type lookup struct {
	byID   map[string]*Document
	byHash map[string]string // source hash → document that owns it
	byURL  map[string]string // source URL → document that owns it
	shared int               // documents that found their hash or URL owned by another
}

func newLookup(size int) *lookup {
	return &lookup{byID: make(map[string]*Document, size), byHash: make(map[string]string, size), byURL: make(map[string]string)}
}

// Document gives a document, nil when it is not there.
func (k *KB) Document(id string) *Document {
	if k.lookup != nil {
		return k.lookup.byID[id]
	}
	for _, d := range k.docs {
		if d.ID == id {
			return d
		}
	}
	return nil
}

// place is where the first document of this creation or a later one is.
func (k *KB) place(seq int64) int {
	at, _ := slices.BinarySearchFunc(k.docs, seq, func(d *Document, want int64) int {
		return int(min(max(d.CreatedSeq-want, -1), 1))
	})
	return at
}

// insert adds the newest document.
func (k *KB) insert(d *Document) {
	k.docs = append(k.docs, d)
	if k.lookup != nil {
		k.lookup.byID[d.ID] = d
	}
	k.account(nil, d)
	if k.lookup == nil && len(k.docs) > fewDocs {
		k.lookup = newLookup(2 * fewDocs)
		for _, d := range k.docs {
			k.lookup.byID[d.ID] = d
		}
		for _, d := range k.docs {
			k.lookup.own(d)
		}
	}
}

// replace puts a changed document in the place of what it was.
func (k *KB) replace(d *Document) {
	k.docs[k.place(d.CreatedSeq)] = d
	if k.lookup != nil {
		k.lookup.byID[d.ID] = d
	}
}

// remove takes a document out.
func (k *KB) remove(d *Document) {
	at := k.place(d.CreatedSeq)
	k.docs = slices.Delete(k.docs, at, at+1)
	if k.lookup != nil {
		delete(k.lookup.byID, d.ID)
	}
}

// ownerOfHash gives the document that keeps others from adding bytes of this hash. Of
// several (NEW_VERSION, a named id) it is the oldest, whatever the order of changes: a
// restored state must answer as this one does.
func (k *KB) ownerOfHash(hash string) *Document {
	if hash == "" {
		return nil
	}
	if k.lookup != nil {
		return k.lookup.byID[k.lookup.byHash[hash]]
	}
	return k.oldest(func(d *Document) bool { return d.owns()[0] == hash })
}

// ownerOfURL is [KB.ownerOfHash] for sources that are fetched.
func (k *KB) ownerOfURL(url string) *Document {
	if url == "" {
		return nil
	}
	if k.lookup != nil {
		return k.lookup.byID[k.lookup.byURL[url]]
	}
	return k.oldest(func(d *Document) bool { return d.owns()[1] == url })
}

func (k *KB) oldest(is func(*Document) bool) *Document {
	if at := slices.IndexFunc(k.docs, is); at >= 0 {
		return k.docs[at]
	}
	return nil
}

// owns gives the hash and URL the document keeps others from adding.
func (d *Document) owns() [2]string {
	if d == nil || d.State == StateDeleting {
		return [2]string{}
	}
	return [2]string{d.Source.SHA256, d.Source.URL}
}

// own records the document as the one that has its source, unless it is on its
// way out, or an older one has it.
func (l *lookup) own(d *Document) {
	source := d.owns()
	l.claim(l.byHash, source[0], d)
	l.claim(l.byURL, source[1], d)
}

func (l *lookup) claim(owners map[string]string, source string, d *Document) {
	if source == "" {
		return
	}
	owner, taken := owners[source]
	if taken && owner != d.ID {
		l.shared++
	}
	if !taken || d.CreatedSeq < l.byID[owner].CreatedSeq {
		owners[source] = d.ID
	}
}

// disown gives the document's source up; another document that has it too
// becomes its owner, so that the duplicate rule goes on holding.
func (k *KB) disown(d *Document) {
	l := k.lookup
	lostHash := d.Source.SHA256 != "" && l.byHash[d.Source.SHA256] == d.ID
	lostURL := d.Source.URL != "" && l.byURL[d.Source.URL] == d.ID
	if lostHash {
		delete(l.byHash, d.Source.SHA256)
	}
	if lostURL {
		delete(l.byURL, d.Source.URL)
	}
	if l.shared == 0 || (!lostHash && !lostURL) {
		return
	}
	for _, o := range k.docs {
		if o.ID != d.ID && o.State != StateDeleting &&
			(lostHash && o.Source.SHA256 == d.Source.SHA256 || lostURL && o.Source.URL == d.Source.URL) {
			l.own(o)
		}
	}
}

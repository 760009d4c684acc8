package parse

import (
	"encoding/xml"
	"net/url"
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// parseEPUB extracts the chapters of a book in reading order.
func (j *job) parseEPUB() (*pipeline.Parsed, error) {
	if err := j.zip.refuseDRM(); err != nil {
		return nil, err
	}
	book, err := j.zip.epubPackage()
	if err != nil {
		return nil, err
	}
	b := j.newBuilder()
	var missing bool
	for _, part := range book.spine {
		if !j.zip.has(part) {
			missing = true
			continue
		}
		if err := j.chapter(b, part); err != nil {
			return nil, err
		}
	}
	out := b.done(typeEPUB)
	out.Metadata = book.meta
	out.Title = book.meta["title"]
	out.Language = firstOf(languageTag(book.meta["language"]), out.Language)
	if missing {
		out.Warnings = append(out.Warnings, "chapters named by the book are missing from it")
	}
	return out, nil
}

// chapter adds one XHTML file of the book.
func (j *job) chapter(b *builder, part string) error {
	if err := j.alive(); err != nil {
		return err
	}
	raw, err := j.zip.read(part)
	if err != nil {
		return err
	}
	doc, err := j.parseDOM(decodeText(raw, "").text)
	if err != nil {
		return err
	}
	return (&htmlWalk{b: b}).blocks(doc)
}

// epubBook is the package document of a book.
type epubBook struct {
	spine []string // entry names in reading order
	meta  map[string]string
}

// epubPackage finds and reads the package document.
func (a *archive) epubPackage() (epubBook, error) {
	opf := ""
	err := a.eachToken("META-INF/container.xml", func(_ *xmlWalk, t xml.Token) error {
		if e, ok := t.(xml.StartElement); ok && e.Name.Local == "rootfile" && opf == "" {
			opf = strings.TrimPrefix(attr(e, "full-path"), "/")
		}
		return nil
	})
	if err != nil {
		return epubBook{}, err
	}
	p := opfWalk{base: opf, items: map[string]string{}, book: epubBook{meta: map[string]string{}}}
	if err := a.eachToken(opf, p.token); err != nil {
		return epubBook{}, err
	}
	for _, id := range p.order {
		if part := p.items[id]; part != "" {
			p.book.spine = append(p.book.spine, part)
		}
	}
	if len(p.book.spine) > a.job.lim.Pages {
		return epubBook{}, tooManyPages(a.job.lim)
	}
	return p.book, nil
}

// opfWalk reads manifest, spine and metadata.
type opfWalk struct {
	base  string
	items map[string]string // id → entry name of the XHTML files
	order []string          // ids of the spine
	book  epubBook
	key   string
}

func (p *opfWalk) token(_ *xmlWalk, tok xml.Token) error {
	switch t := tok.(type) {
	case xml.StartElement:
		p.key = ""
		switch t.Name.Local {
		case "item":
			if mt := attr(t, "media-type"); mt == "application/xhtml+xml" || mt == typeHTML {
				href := attr(t, "href")
				if plain, err := url.PathUnescape(href); err == nil {
					href = plain
				}
				p.items[attr(t, "id")] = resolve(p.base, href)
			}
		case "itemref":
			p.order = append(p.order, attr(t, "idref"))
		case "title", "language", "creator", "description", "subject", "publisher", "date":
			p.key = t.Name.Local
		}
	case xml.EndElement:
		p.key = ""
	case xml.CharData:
		key := p.key
		if key == "creator" {
			key = "author"
		}
		if key != "" && p.book.meta[key] == "" {
			setMeta(p.book.meta, key, string(t))
		}
	}
	return nil
}

// refuseDRM tells a book under DRM: its encryption file names more than fonts,
// which are often only obfuscated.
func (a *archive) refuseDRM() error {
	const name = "META-INF/encryption.xml"
	if !a.has(name) {
		return nil
	}
	return a.eachToken(name, func(_ *xmlWalk, t xml.Token) error {
		e, ok := t.(xml.StartElement)
		if !ok || e.Name.Local != "CipherReference" {
			return nil
		}
		uri := strings.ToLower(attr(e, "URI"))
		for _, ext := range []string{".xhtml", ".html", ".htm", ".opf"} {
			if strings.HasSuffix(uri, ext) {
				return failf(ReasonEncrypted, "the book is protected by DRM")
			}
		}
		return nil
	})
}

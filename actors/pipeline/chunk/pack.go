package chunk

import (
	"granary.dev/granary/actors/pipeline"
)

// packer gathers the units of a document and then packs them into chunks.
type packer struct {
	doc    *pipeline.Parsed
	detect func(string) string

	target, maxPlain, maxBlock int // quarter words
	overlap                    int // sentences

	units  []unit
	paths  [][]string // heading path of each section; 0 is before any heading
	levels []int      // levels of the current path
	chunks []pipeline.Chunk
}

func newPacker(doc *pipeline.Parsed, opt Options) *packer {
	return &packer{
		doc:      doc,
		detect:   opt.DetectLanguage,
		target:   opt.TargetWords * costWord,
		maxPlain: opt.MaxWords * costWord,
		maxBlock: opt.MaxBlockWords * costWord,
		overlap:  opt.OverlapSentences,
		paths:    [][]string{nil},
	}
}

// pack runs over the units once. start is where the chunk begins, overlap
// included; fresh is the first unit that no chunk holds yet.
func (p *packer) pack() {
	for i := len(p.units) - 1; i >= 0; i-- {
		p.units[i].rest = p.units[i].cost
		if i+1 < len(p.units) && p.units[i+1].section == p.units[i].section {
			p.units[i].rest += p.units[i+1].rest
		}
	}
	start := 0
	for fresh := 0; fresh < len(p.units); {
		var end int
		start, end = p.fill(start, fresh)
		p.emit(start, end)
		start = p.repeat(start, end)
		fresh = end
	}
}

// fill decides where the chunk that begins at start ends (exclusive). It gives
// up the overlap when the first fresh unit does not fit beside it.
func (p *packer) fill(start, fresh int) (from, end int) {
	size, body := 0, false
	for _, u := range p.units[start:fresh] {
		size += u.cost
		body = true
	}
	if first := p.units[fresh]; size > 0 && size+first.cost > p.maxPlain {
		start, size, body = fresh, 0, false
	}
	end = fresh
	for ; end < len(p.units); end++ {
		u := p.units[end]
		if end > fresh && (p.closes(u, size, body) || size+u.cost > p.limit(u, body)) {
			break
		}
		size += u.cost
		body = body || u.kind != pipeline.BlockHeading
	}
	return start, p.withoutTrailingHeadings(fresh, end)
}

// limit is the size that a chunk may reach with u in it: a table or code block
// kept whole may be larger, but then only headings stand before it.
func (p *packer) limit(u unit, body bool) int {
	if !body && u.cost > p.maxPlain {
		return p.maxBlock
	}
	return p.maxPlain
}

// closes tells whether a chunk of that size is complete before u.
func (p *packer) closes(u unit, size int, body bool) bool {
	switch {
	case !body:
		return false // headings wait for what they announce
	case u.kind == pipeline.BlockHeading:
		return size >= p.target/smallSectionDivisor
	case size+u.rest <= p.maxPlain:
		return false // the rest of the section fits: no small leftover
	case size >= p.target:
		return true
	default:
		return u.first && size >= p.target-p.target/5
	}
}

// withoutTrailingHeadings moves headings at the end of a chunk to the next one,
// which holds what they announce.
func (p *packer) withoutTrailingHeadings(fresh, end int) int {
	if end == len(p.units) {
		return end
	}
	cut := end
	for cut > fresh && p.units[cut-1].kind == pipeline.BlockHeading {
		cut--
	}
	if cut == fresh {
		return end
	}
	return cut
}

// repeat returns where the chunk after [start, end) begins: up to overlap whole
// sentences earlier if both sides are prose of the same section.
func (p *packer) repeat(start, end int) int {
	if end == len(p.units) || !p.units[end].prose {
		return end
	}
	from, size := end, 0
	for n := 0; n < p.overlap && from-1 > start; n++ {
		u := p.units[from-1]
		if !u.prose || u.section != p.units[end].section || size+u.cost > p.target/2 {
			break
		}
		size += u.cost
		from--
	}
	return from
}

// emit appends the chunk of units [start, end).
func (p *packer) emit(start, end int) {
	first, last := p.units[start], p.units[end-1]
	c := pipeline.Chunk{
		Ordinal:  len(p.chunks),
		Text:     p.doc.Text[first.start:last.end],
		Start:    first.start,
		End:      last.end,
		Page:     first.page,
		Headings: p.path(start, end),
		Language: p.doc.Language,
		Kind:     kindOf(p.units[start:end]),
	}
	if p.detect != nil {
		if language := p.detect(c.Text); language != "" {
			c.Language = language
		}
	}
	p.chunks = append(p.chunks, c)
}

// path is the heading path that all text of units [start, end) shares; headings
// count only when the chunk holds nothing else.
func (p *packer) path(start, end int) []string {
	var path []string
	section, seen := -1, false
	for _, u := range p.units[start:end] {
		if u.section == section || u.kind == pipeline.BlockHeading {
			continue
		}
		section = u.section
		if !seen {
			path, seen = p.paths[section], true
			continue
		}
		path = path[:shared(path, p.paths[section])]
	}
	if !seen {
		path = p.paths[p.units[end-1].section]
	}
	if len(path) == 0 {
		return nil
	}
	return path[:len(path):len(path)]
}

func shared(a, b []string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// kindOf is the kind that all units but headings share, else a paragraph.
func kindOf(units []unit) pipeline.BlockKind {
	kind, seen := pipeline.BlockHeading, false
	for _, u := range units {
		switch {
		case u.kind == pipeline.BlockHeading:
		case !seen:
			kind, seen = u.kind, true
		case u.kind != kind:
			return pipeline.BlockParagraph
		}
	}
	return kind
}

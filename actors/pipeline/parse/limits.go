package parse

// Limits bound one parse. They are sizes that ordinary documents stay far
// below, chosen so that a parse at every limit fits a worker of 512 MiB.
type Limits struct {
	SourceBytes       int64  // bytes of the source
	TextBytes         int    // bytes of Parsed.Text
	Blocks            int    // entries of Parsed.Blocks
	Depth             int    // nesting of elements, lists, quotations, objects
	Pages             int    // pages, slides, sheets, chapters
	ArchiveEntries    int    // files in an archive
	ArchiveEntryBytes int64  // unpacked bytes of one file in an archive
	ArchiveTotalBytes int64  // unpacked bytes of all files in an archive
	ArchiveRatio      int64  // unpacked/packed bytes of one file, once it unpacks to more than 1 MiB
	PDFMemoryPages    uint32 // linear memory of the PDF module, in pages of 64 KiB
}

// DefaultLimits returns the limits used where an Input leaves a field zero.
// The ratio is that of text of one repeated word, about 200; deflate itself
// ends at 1,032.
func DefaultLimits() Limits {
	return Limits{
		SourceBytes:       64 << 20,
		TextBytes:         16 << 20,
		Blocks:            500_000,
		Depth:             200,
		Pages:             5_000,
		ArchiveEntries:    10_000,
		ArchiveEntryBytes: 64 << 20,
		ArchiveTotalBytes: 256 << 20,
		ArchiveRatio:      200,
		PDFMemoryPages:    4096,
	}
}

// orDefault replaces a zero value.
func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// OrDefaults replaces the zero fields by those of [DefaultLimits].
func (l Limits) OrDefaults() Limits {
	d := DefaultLimits()
	return Limits{
		SourceBytes:       orDefault(l.SourceBytes, d.SourceBytes),
		TextBytes:         orDefault(l.TextBytes, d.TextBytes),
		Blocks:            orDefault(l.Blocks, d.Blocks),
		Depth:             orDefault(l.Depth, d.Depth),
		Pages:             orDefault(l.Pages, d.Pages),
		ArchiveEntries:    orDefault(l.ArchiveEntries, d.ArchiveEntries),
		ArchiveEntryBytes: orDefault(l.ArchiveEntryBytes, d.ArchiveEntryBytes),
		ArchiveTotalBytes: orDefault(l.ArchiveTotalBytes, d.ArchiveTotalBytes),
		ArchiveRatio:      orDefault(l.ArchiveRatio, d.ArchiveRatio),
		PDFMemoryPages:    orDefault(l.PDFMemoryPages, d.PDFMemoryPages),
	}
}

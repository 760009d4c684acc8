package parse

import (
	"archive/zip"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// archive reads the entries of a zip file under the limits. What an entry
// claims to unpack to is not believed: bytes are counted as they come out.
type archive struct {
	job    *job
	byName map[string]*zip.File
	files  []*zip.File
	total  int64 // bytes unpacked so far, over all entries
}

// detectArchive opens the zip file and tells which format it is.
func (j *job) detectArchive() (kind, error) {
	zr, err := zip.NewReader(j.in.Data, j.in.Size)
	if err != nil {
		return kindUnknown, fail(ReasonMalformed, "the archive is damaged", err)
	}
	if len(zr.File) > j.lim.ArchiveEntries {
		return kindUnknown, failf(ReasonArchiveTooLarge, "the archive has %d entries, at most %d are read", len(zr.File), j.lim.ArchiveEntries)
	}
	a := &archive{job: j, byName: make(map[string]*zip.File, len(zr.File)), files: zr.File}
	for _, f := range zr.File {
		if f.Flags&1 != 0 {
			return kindUnknown, failf(ReasonEncrypted, "the archive is protected by a password")
		}
		name := strings.TrimPrefix(strings.ReplaceAll(f.Name, `\`, "/"), "/")
		if a.byName[name] == nil {
			a.byName[name] = f
		}
	}
	j.zip = a
	switch {
	case a.has("word/document.xml"):
		return kindDOCX, nil
	case a.has("ppt/presentation.xml"):
		return kindPPTX, nil
	case a.has("xl/workbook.xml"):
		return kindXLSX, nil
	case a.has("META-INF/container.xml"):
		return kindEPUB, nil
	}
	return kindUnknown, failf(ReasonUnsupported, "archives are not supported; upload their files one by one")
}

func (a *archive) has(name string) bool { return a.byName[name] != nil }

// open opens an entry for reading within the limits. Names are matched as
// they stand in the archive; nothing is ever written to a file system.
func (a *archive) open(name string) (io.ReadCloser, error) {
	f := a.byName[name]
	if f == nil {
		return nil, failf(ReasonMalformed, "the archive lacks %s", path.Base(name))
	}
	return a.openFile(f)
}

func (a *archive) openFile(f *zip.File) (io.ReadCloser, error) {
	rc, err := f.Open()
	if err != nil {
		return nil, fail(ReasonMalformed, "the archive is damaged", err)
	}
	return &entryReader{rc: rc, a: a, packed: int64(f.CompressedSize64)}, nil
}

// read reads a whole entry.
func (a *archive) read(name string) ([]byte, error) {
	rc, err := a.open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(rc)
	return data, errors.Join(err, rc.Close())
}

// verify unpacks every entry into nothing, for parsers that unpack by
// themselves.
func (a *archive) verify() error {
	for _, f := range a.files {
		rc, err := a.openFile(f)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			return err
		}
	}
	return nil
}

// entryReader counts and caps.
type entryReader struct {
	rc     io.ReadCloser
	a      *archive
	packed int64
	n      int64
}

// ratioFrom is how much an entry may unpack to before its ratio counts: small
// files of white space pack extremely well and hurt nobody.
const ratioFrom = 1 << 20

func (r *entryReader) Read(p []byte) (int, error) {
	if err := r.a.job.alive(); err != nil {
		return 0, err
	}
	n, err := r.rc.Read(p)
	r.n += int64(n)
	r.a.total += int64(n)
	lim := r.a.job.lim
	switch {
	case r.n > lim.ArchiveEntryBytes, r.a.total > lim.ArchiveTotalBytes:
		return 0, failf(ReasonArchiveTooLarge, "the archive unpacks to more than %d bytes in one entry or %d in all", lim.ArchiveEntryBytes, lim.ArchiveTotalBytes)
	case r.n > ratioFrom && r.n > lim.ArchiveRatio*max(r.packed, 1):
		return 0, failf(ReasonArchiveTooLarge, "the archive unpacks to more than %d times its size", lim.ArchiveRatio)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = archiveError(err)
	}
	return n, err
}

func (r *entryReader) Close() error { return r.rc.Close() }

// archiveError names the faults of damaged archives.
func archiveError(err error) error {
	var corrupt flate.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) ||
		errors.Is(err, zip.ErrAlgorithm) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(ReasonMalformed, "the archive is damaged", err)
	}
	return fmt.Errorf("parse: read archive: %w", err)
}

// resolve turns the target of a relation of the part at base into an entry
// name.
func resolve(base, target string) string {
	target, _, _ = strings.Cut(target, "#")
	if strings.HasPrefix(target, "/") {
		return strings.TrimPrefix(path.Clean(target), "/")
	}
	return path.Join(path.Dir(base), target)
}

package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/parse"
)

// The protocol: the parent sends hello, then jobs; the worker answers each job
// before it reads the next. Everything is a frame (length of 4 bytes, big
// endian, then that many bytes) but the bytes of a streamed source, whose
// number the job tells. An answer is a header in JSON, then the text, then the
// blocks.

// maxHeader caps a JSON frame: names, metadata and warnings.
const maxHeader = 1 << 20

// errProtocol is an answer that no sound worker gives.
var errProtocol = errors.New("worker broke the protocol")

// jobFrame announces a job.
type jobFrame struct {
	ID        uint64       `json:"id"`
	Name      string       `json:"name"`
	MediaType string       `json:"media_type"`
	Path      string       `json:"path"` // read by the worker; "" when Size bytes follow
	Size      int64        `json:"size"`
	Limits    parse.Limits `json:"limits"`
}

// answerFrame announces an answer: an error, or a result without its text and
// blocks, which follow in frames of their own.
type answerFrame struct {
	ID     uint64           `json:"id"`
	Error  *errorFrame      `json:"error,omitempty"`
	Parsed *pipeline.Parsed `json:"parsed,omitempty"`
	Text   int              `json:"text"`   // bytes
	Blocks int              `json:"blocks"` // count
}

// errorFrame carries a pipeline.Error, or with an empty Reason another error.
type errorFrame struct {
	Reason    string `json:"reason"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable"`
	Cause     string `json:"cause"`
}

func writeFrame(w io.Writer, payload []byte) error {
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(payload)))); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFrame(w, b)
}

// readFrame reads a frame of at most limit bytes.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("%w: frame of %d bytes, at most %d", errProtocol, n, limit)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func readJSON(r io.Reader, v any) error {
	b, err := readFrame(r, maxHeader)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	return nil
}

// writeAnswer sends the outcome of a job.
func writeAnswer(w io.Writer, id uint64, out *pipeline.Parsed, err error) error {
	if err != nil {
		return writeJSON(w, answerFrame{ID: id, Error: toErrorFrame(err)})
	}
	meta := *out
	meta.Text, meta.Blocks = "", nil
	if err := writeJSON(w, answerFrame{ID: id, Parsed: &meta, Text: len(out.Text), Blocks: len(out.Blocks)}); err != nil {
		return err
	}
	if err := writeFrame(w, []byte(out.Text)); err != nil {
		return err
	}
	return writeFrame(w, encodeBlocks(out.Blocks))
}

// readAnswer reads the answer to job id. The first error is that of the job,
// the second that of the worker, which is then not to be used any more.
func readAnswer(r io.Reader, id uint64, lim parse.Limits) (out *pipeline.Parsed, failed, broken error) {
	var a answerFrame
	if err := readJSON(r, &a); err != nil {
		return nil, nil, err
	}
	if a.ID != id || (a.Error == nil) == (a.Parsed == nil) || a.Text < 0 || a.Text > lim.TextBytes || a.Blocks < 0 || a.Blocks > lim.Blocks {
		return nil, nil, fmt.Errorf("%w: impossible answer", errProtocol)
	}
	if a.Error != nil {
		return nil, a.Error.toError(), nil
	}
	text, err := readFrame(r, a.Text)
	if err != nil {
		return nil, nil, err
	}
	raw, err := readFrame(r, a.Blocks*blockBytes)
	if err != nil {
		return nil, nil, err
	}
	out = a.Parsed
	out.Text = string(text)
	if out.Blocks, err = decodeBlocks(raw, a.Blocks); err != nil {
		return nil, nil, err
	}
	if err := parse.Check(out); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	return out, nil, nil
}

func toErrorFrame(err error) *errorFrame {
	if e, ok := errors.AsType[*pipeline.Error](err); ok {
		f := &errorFrame{Reason: e.Reason, Message: e.Message, Retryable: e.Retryable}
		if e.Err != nil {
			f.Cause = clip(e.Err.Error())
		}
		return f
	}
	return &errorFrame{Cause: clip(err.Error())}
}

func (f *errorFrame) toError() error {
	var cause error
	if f.Cause != "" {
		cause = errors.New(clip(f.Cause))
	}
	if f.Reason == "" {
		return fmt.Errorf("parse worker: %w", cause)
	}
	return &pipeline.Error{Stage: "parse", Reason: clip(f.Reason), Message: clip(f.Message), Retryable: f.Retryable, Err: cause}
}

// clip keeps messages to a size fit for logs.
func clip(s string) string { return s[:min(len(s), 1024)] }

// blockBytes is the most one encoded block takes: five varints of 32 bits.
const blockBytes = 5 * binary.MaxVarintLen32

// encodeBlocks writes kind, level, gap to the block before, length and page.
func encodeBlocks(blocks []pipeline.Block) []byte {
	b := make([]byte, 0, 8*len(blocks))
	end := 0
	for _, bl := range blocks {
		for _, v := range [5]int{int(bl.Kind), bl.Level, bl.Start - end, bl.End - bl.Start, bl.Page} {
			b = binary.AppendUvarint(b, uint64(v))
		}
		end = bl.End
	}
	return b
}

func decodeBlocks(b []byte, count int) ([]pipeline.Block, error) {
	blocks := make([]pipeline.Block, 0, min(count, len(b)))
	end := 0
	for range count {
		var v [5]int
		for i := range v {
			u, n := binary.Uvarint(b)
			if n <= 0 || u > 1<<31-1 {
				return nil, fmt.Errorf("%w: bad block", errProtocol)
			}
			v[i], b = int(u), b[n:]
		}
		if v[0] > int(pipeline.BlockQuote) {
			return nil, fmt.Errorf("%w: bad kind of block", errProtocol)
		}
		start := end + v[2]
		end = start + v[3]
		blocks = append(blocks, pipeline.Block{Kind: pipeline.BlockKind(v[0]), Level: v[1], Start: start, End: end, Page: v[4]})
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: bytes after the last block", errProtocol)
	}
	return blocks, nil
}

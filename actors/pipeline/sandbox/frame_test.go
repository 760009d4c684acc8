package sandbox

import (
	"bytes"
	"reflect"
	"testing"

	"granary.dev/granary/actors/pipeline"
	"granary.dev/granary/actors/pipeline/parse"
)

func TestAnswersSurviveTheProtocol(t *testing.T) {
	want := &pipeline.Parsed{
		MediaType: "text/plain", Charset: "utf-8", Language: "en", Title: "T", Text: "Title\n\nüber alles\n", Pages: 3,
		Blocks:   []pipeline.Block{{Kind: pipeline.BlockHeading, Level: 2, Start: 0, End: 5, Page: 1}, {Kind: pipeline.BlockQuote, Start: 7, End: 18, Page: 3}},
		Metadata: map[string]string{"author": "x"}, Warnings: []string{"w"},
	}
	var buf bytes.Buffer
	if err := writeAnswer(&buf, 7, want, nil); err != nil {
		t.Fatal(err)
	}
	got, failed, broken := readAnswer(&buf, 7, parse.DefaultLimits())
	if failed != nil || broken != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, %v", got, failed, broken)
	}
}

// FuzzAnswer feeds what a worker gone wild may answer: a result passes the
// check, or the worker is called broken.
func FuzzAnswer(f *testing.F) {
	var ok, failed bytes.Buffer
	out := &pipeline.Parsed{Text: "a b", Blocks: []pipeline.Block{{End: 1}, {Start: 2, End: 3}}}
	if err := writeAnswer(&ok, 1, out, nil); err != nil {
		f.Fatal(err)
	}
	if err := writeAnswer(&failed, 1, nil, parseError("X", "y", true, nil)); err != nil {
		f.Fatal(err)
	}
	f.Add(ok.Bytes())
	f.Add(failed.Bytes())
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, failed, broken := readAnswer(bytes.NewReader(data), 1, parse.Limits{}.OrDefaults())
		if broken == nil && failed == nil {
			if err := parse.Check(out); err != nil {
				t.Error(err)
			}
		}
	})
}

package chunk

import "testing"

func TestHeadingPathHasNoMarkdownMarks(t *testing.T) {
	for in, want := range map[string]string{
		"# Signing keys":        "Signing keys",
		"###  Rotation  ###":    "Rotation",
		"Title\n=====":          "Title",
		"Two\nlines":            "Two lines",
		"#hashtag":              "#hashtag",
		"C# for all":            "C# for all",
		"## C#":                 "C#",
		"Plain":                 "Plain",
		"####### seven is none": "####### seven is none",
	} {
		if got := headingText(in); got != want {
			t.Errorf("headingText(%q) = %q, want %q", in, got, want)
		}
	}
}

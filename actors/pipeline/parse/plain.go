package parse

import (
	"strings"

	"granary.dev/granary/actors/pipeline"
)

// sourceResult makes the result of a format whose text is the source itself.
func (j *job) sourceResult(t decoded, mediaType string, blocks []pipeline.Block) (*pipeline.Parsed, error) {
	if len(blocks) > j.lim.Blocks {
		return nil, textTooLarge(j.lim)
	}
	if err := j.alive(); err != nil {
		return nil, err
	}
	return &pipeline.Parsed{
		MediaType: mediaType,
		Charset:   t.charset,
		Text:      t.text,
		Blocks:    blocks,
		Warnings:  t.warnings,
		Language:  languageOf(t.text),
		Metadata:  map[string]string{},
	}, nil
}

// parsePlain splits plain text into paragraphs at blank lines.
func (j *job) parsePlain(t decoded) (*pipeline.Parsed, error) {
	var blocks []pipeline.Block
	start, end := -1, 0
	for pos, line := range lines(t.text) {
		if strings.TrimSpace(line) == "" {
			blocks = appendBlock(blocks, pipeline.BlockParagraph, t.text, start, end)
			start = -1
			continue
		}
		if start < 0 {
			start = pos
		}
		end = pos + len(line)
		if len(blocks) > j.lim.Blocks {
			break
		}
	}
	blocks = appendBlock(blocks, pipeline.BlockParagraph, t.text, start, end)
	return j.sourceResult(t, typePlain, blocks)
}

// parseCode splits source code into its top-level pieces: a piece ends at a
// blank line before a line that starts in the first column and does not close
// something.
func (j *job) parseCode(t decoded) (*pipeline.Parsed, error) {
	var blocks []pipeline.Block
	start, end, blank := -1, 0, true
	for pos, line := range lines(t.text) {
		if strings.TrimSpace(line) == "" {
			blank = true
			continue
		}
		if blank && start >= 0 && !strings.ContainsRune(" \t})]", rune(line[0])) {
			blocks = appendBlock(blocks, pipeline.BlockCode, t.text, start, end)
			start = -1
			if len(blocks) > j.lim.Blocks {
				break
			}
		}
		if start < 0 {
			start = pos
		}
		end, blank = pos+len(line), false
	}
	blocks = appendBlock(blocks, pipeline.BlockCode, t.text, start, end)
	out, err := j.sourceResult(t, typeCode, blocks)
	if err != nil {
		return nil, err
	}
	if lang := languageOfExtension(j.extension()); lang != "" {
		out.Metadata["programming_language"] = lang
	}
	return out, nil
}

// appendBlock appends text[start:end] without the white space around it,
// keeping the indentation of code. A negative start appends nothing.
func appendBlock(blocks []pipeline.Block, kind pipeline.BlockKind, text string, start, end int) []pipeline.Block {
	if start < 0 {
		return blocks
	}
	if kind != pipeline.BlockCode {
		start = end - len(strings.TrimLeftFunc(text[start:end], isSpace))
	}
	end = start + len(strings.TrimRightFunc(text[start:end], isSpace))
	if end <= start {
		return blocks
	}
	return append(blocks, pipeline.Block{Kind: kind, Start: start, End: end})
}

// lines yields every line with its offset, without its line end.
func lines(text string) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		for pos := 0; pos < len(text); {
			line, next := text[pos:], len(text)
			if i := strings.IndexByte(line, '\n'); i >= 0 {
				line, next = line[:i], pos+i+1
			}
			if !yield(pos, line) {
				return
			}
			pos = next
		}
	}
}

// languageOfExtension names the programming language of a file extension, ""
// when it is none.
func languageOfExtension(ext string) string {
	switch ext {
	case ".go", ".rs", ".swift", ".dart", ".zig", ".nim", ".lua", ".java", ".scala", ".groovy", ".php", ".sql", ".css", ".scss", ".less", ".vue", ".svelte", ".proto", ".graphql", ".r", ".m":
		return ext[1:]
	case ".c", ".h":
		return "c"
	case ".cc", ".cpp", ".cxx", ".hpp", ".hh":
		return "cpp"
	case ".cs":
		return "csharp"
	case ".py", ".pyi":
		return "python"
	case ".rb":
		return "ruby"
	case ".js", ".mjs", ".cjs", ".jsx":
		return "javascript"
	case ".ts", ".tsx", ".mts":
		return "typescript"
	case ".kt", ".kts":
		return "kotlin"
	case ".sh", ".bash", ".zsh", ".fish", ".ps1":
		return "shell"
	case ".pl", ".pm":
		return "perl"
	case ".ex", ".exs":
		return "elixir"
	case ".erl", ".hrl":
		return "erlang"
	case ".hs":
		return "haskell"
	case ".ml", ".mli":
		return "ocaml"
	case ".clj", ".cljs":
		return "clojure"
	case ".jl":
		return "julia"
	case ".yaml", ".yml":
		return "yaml"
	case ".toml", ".ini", ".conf", ".cfg", ".properties", ".env":
		return "configuration"
	case ".tf", ".hcl":
		return "hcl"
	case ".mk", ".cmake", ".gradle", ".bat", ".cmd", ".asm", ".s", ".vim", ".el", ".lisp", ".scm", ".f90", ".pas", ".vb":
		return "source"
	}
	return ""
}

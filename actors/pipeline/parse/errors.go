package parse

import (
	"fmt"

	"granary.dev/granary/actors/pipeline"
)

// Reasons of parse failures, stable across releases. OUT_OF_MEMORY and TIMEOUT
// by CPU time are found by package sandbox, from outside of the parser.
const (
	ReasonUnsupported     = "UNSUPPORTED_TYPE"  // no parser for this kind of file
	ReasonTooLarge        = "TOO_LARGE"         // the source has too many bytes
	ReasonTextTooLarge    = "TEXT_TOO_LARGE"    // the extracted text or its block list is too large
	ReasonArchiveTooLarge = "ARCHIVE_TOO_LARGE" // entries, unpacked bytes or ratio of an archive
	ReasonTooDeep         = "TOO_DEEP"          // nested deeper than Limits.Depth
	ReasonTooManyPages    = "TOO_MANY_PAGES"    // pages, slides, sheets or chapters
	ReasonMalformed       = "MALFORMED"         // not a valid file of its kind
	ReasonEncrypted       = "ENCRYPTED"         // needs a password, or is under DRM
	ReasonEncryptedPDF    = "ENCRYPTED_PDF"     // a PDF that needs a password
	ReasonTimeout         = "TIMEOUT"           // deadline or CPU time used up
	ReasonOutOfMemory     = "OUT_OF_MEMORY"     // memory limit of the worker reached
	ReasonCrashed         = "CRASHED"           // the parser failed on this file
)

// fail makes a permanent parse error.
func fail(reason, message string, cause error) error {
	return &pipeline.Error{Stage: "parse", Reason: reason, Message: message, Err: cause}
}

func failf(reason, format string, args ...any) error {
	return fail(reason, fmt.Sprintf(format, args...), nil)
}

func textTooLarge(l Limits) error {
	return failf(ReasonTextTooLarge, "the text is larger than %d bytes or has more than %d blocks", l.TextBytes, l.Blocks)
}

func tooDeep(l Limits) error {
	return failf(ReasonTooDeep, "the file is nested deeper than %d levels", l.Depth)
}

package cli

import (
	"strings"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	kbPrefix = "knowledgeBases/"
	docInfix = "/documents/"
)

// kbName is the resource name of a knowledge base given by name or id.
func kbName(arg string) string { return kbPrefix + strings.TrimPrefix(arg, kbPrefix) }

func shortKB(name string) string { return strings.TrimPrefix(name, kbPrefix) }

// docName is the resource name of a document given by id or name.
func docName(kb, arg string) string {
	if strings.HasPrefix(arg, kbPrefix) {
		return arg
	}
	return kbName(kb) + docInfix + arg
}

func shortDoc(name string) string {
	if _, id, ok := strings.Cut(name, docInfix); ok {
		return id
	}
	return name
}

func stateText(s granaryv1.DocumentState) string {
	return shortEnum(s.Descriptor(), s.Number())
}

func stateStyle(s granaryv1.DocumentState) style {
	switch s {
	case granaryv1.DocumentState_DOCUMENT_STATE_READY:
		return green
	case granaryv1.DocumentState_DOCUMENT_STATE_FAILED:
		return red
	case granaryv1.DocumentState_DOCUMENT_STATE_READY_EMPTY,
		granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED,
		granaryv1.DocumentState_DOCUMENT_STATE_DELETING:
		return dim
	default:
		return yellow
	}
}

// terminal reports whether a document version in this state stays in it.
func terminal(s granaryv1.DocumentState) bool {
	switch s {
	case granaryv1.DocumentState_DOCUMENT_STATE_READY,
		granaryv1.DocumentState_DOCUMENT_STATE_READY_EMPTY,
		granaryv1.DocumentState_DOCUMENT_STATE_FAILED,
		granaryv1.DocumentState_DOCUMENT_STATE_CANCELLED,
		granaryv1.DocumentState_DOCUMENT_STATE_DELETING:
		return true
	}
	return false
}

// succeeded reports whether a document version ended well.
func succeeded(s granaryv1.DocumentState) bool {
	return s == granaryv1.DocumentState_DOCUMENT_STATE_READY ||
		s == granaryv1.DocumentState_DOCUMENT_STATE_READY_EMPTY
}

// errorText is a document's error in one line.
func errorText(e *granaryv1.DocumentError) string {
	if e == nil {
		return ""
	}
	text := e.GetReason()
	if e.GetMessage() != "" {
		text += ": " + e.GetMessage()
	}
	if e.GetStage() != "" {
		text += " (" + e.GetStage() + ")"
	}
	if e.GetRetryTime() != nil {
		text += ", next try " + stamp(e.GetRetryTime())
	}
	return text
}

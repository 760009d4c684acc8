package actors

import (
	"encoding/base64"
	"strconv"
	"strings"

	"granary.dev/granary/actors/kb"
)

// Page tokens are opaque to clients: kind and position, encoded.

func makePageToken(kind string, at int64) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + itoa(at)))
}

func pageToken(token, kind string) (int64, bool) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || !strings.HasPrefix(string(data), kind) {
		return 0, false
	}
	n, err := strconv.ParseInt(string(data[len(kind):]), 10, 64)
	return n, err == nil && n >= 0
}

func pageTokenError() error {
	return kb.Errorf(kb.CodeInvalidArgument, kb.ReasonPageTokenInvalid, "the page token is not one of this list")
}

func pageSize(asked int32, most int) int {
	if asked <= 0 {
		return 50
	}
	return min(int(asked), most)
}

// parseInt reads a number; -1 when it is none.
func parseInt(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// Lists that are ordered by name continue after a name.

func makeNameToken(name string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("n" + name))
}

func nameToken(token string) (string, bool) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(data) < 2 || data[0] != 'n' {
		return "", false
	}
	return string(data[1:]), true
}

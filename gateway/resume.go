package gateway

import (
	"encoding/base64"
	"encoding/json"

	"granary.dev/granary/actors/kb"
)

// maxResumeToken is what the field of the request takes.
const maxResumeToken = 256

// resumePoint is a place in the stream of one incarnation of a knowledge base. It
// is not signed: it gives access to nothing, and a made-up one harms its maker only.
type resumePoint struct {
	UID      string `json:"u"`
	Revision int64  `json:"r"`           // last event received
	Progress string `json:"p,omitempty"` // cursor of the last progress received
}

// token encodes the point. A cursor too long for the field is left out: progress
// is not durable, and a client then sees its present state again.
func (r resumePoint) token() (string, error) {
	for {
		raw, err := json.Marshal(r)
		if err != nil {
			return "", err
		}
		token := base64.RawURLEncoding.EncodeToString(raw)
		if len(token) <= maxResumeToken || r.Progress == "" {
			return token, nil
		}
		r.Progress = ""
	}
}

func resumeInvalid() *kb.Error {
	return invalid(kb.ReasonResumeTokenInvalid, "resume_token",
		"The resume token is not one of this knowledge base. Start without a token, or from_start.")
}

func parseResumeToken(token string) (resumePoint, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return resumePoint{}, resumeInvalid()
	}
	var r resumePoint
	if err := json.Unmarshal(raw, &r); err != nil || r.UID == "" || r.Revision < 0 {
		return resumePoint{}, resumeInvalid()
	}
	return r, nil
}

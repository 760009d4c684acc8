package gateway

import (
	"regexp"
	"strings"

	"granary.dev/granary/actors/kb"
)

const (
	knowledgeBasesPrefix = "knowledgeBases/"
	documentsInfix       = "/documents/"
)

var knowledgeBaseID = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// parseKnowledgeBase reads "knowledgeBases/handbook" or "handbook" and gives the
// id and the full name. field is where the client wrote it.
func parseKnowledgeBase(field, name string) (id, full string, err error) {
	id = strings.TrimPrefix(name, knowledgeBasesPrefix)
	if !knowledgeBaseID.MatchString(id) {
		return "", "", invalid(kb.ReasonRequestInvalid, field,
			"The name of a knowledge base is knowledgeBases/{id}, or the id alone: 1 to 63 lower-case letters, digits and hyphens.")
	}
	return id, knowledgeBasesPrefix + id, nil
}

// documentOwner gives the id of the knowledge base in knowledgeBases/{kb}/documents/{doc}.
func documentOwner(field, name string) (string, error) {
	rest, ok := strings.CutPrefix(name, knowledgeBasesPrefix)
	owner, doc, found := strings.Cut(rest, documentsInfix)
	if !ok || !found || doc == "" || !knowledgeBaseID.MatchString(owner) {
		return "", invalid(kb.ReasonRequestInvalid, field,
			"The name of a document is knowledgeBases/{knowledge base}/documents/{document}.")
	}
	return owner, nil
}

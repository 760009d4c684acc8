package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"granary.dev/granary/cluster/protocol"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

// errRefused is an answer that another try will not change.
var errRefused = errors.New("refused")

// fleetClient sends requests to the members of a fleet.
type fleetClient struct {
	fleet *fleet
	http  *http.Client
}

func newFleetClient(f *fleet) *fleetClient {
	return &fleetClient{fleet: f, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}}}
}

// fleetKB is a knowledge base and the credential of its tenant.
type fleetKB struct {
	tenant, name, token string
}

func (k fleetKB) identity() protocol.Identity {
	return protocol.Identity{Kind: "kb", Tenant: k.tenant, ID: k.name}
}

// call makes one request to one member; key, if any, makes it safe to repeat.
func (c *fleetClient) call(ctx context.Context, m *member, kb fleetKB, method, key string, req, res proto.Message) error {
	body, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.api+"/granary.v1."+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.GetBody = nil // what is repeated is ours to count
	r.Header.Set("Content-Type", "application/proto")
	r.Header.Set("Connect-Protocol-Version", "1")
	r.Header.Set("Authorization", "Bearer "+kb.token)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	if end, ok := ctx.Deadline(); ok {
		r.Header.Set("Connect-Timeout-Ms", strconv.FormatInt(max(1, time.Until(end).Milliseconds()), 10))
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	switch s := answer.StatusCode; {
	case s == http.StatusOK:
		return proto.Unmarshal(raw, res)
	case s >= 500 || s == http.StatusTooManyRequests || s == http.StatusRequestTimeout:
		return fmt.Errorf("%s: %s", answer.Status, raw)
	default:
		return fmt.Errorf("%w: %s: %s", errRefused, answer.Status, raw)
	}
}

// create makes a knowledge base with some documents and waits until they are found.
func (c *fleetClient) create(ctx context.Context, m *member, kb fleetKB, text string, docs int) error {
	err := c.call(ctx, m, kb, "KnowledgeBaseService/CreateKnowledgeBase", "create-"+kb.name,
		&granaryv1.CreateKnowledgeBaseRequest{KnowledgeBaseId: kb.name}, &granaryv1.CreateKnowledgeBaseResponse{})
	if err != nil {
		return err
	}
	for i := range docs {
		name := fmt.Sprintf("%s-%d.txt", kb.name, i)
		err := c.call(ctx, m, kb, "DocumentService/CreateDocument", name, &granaryv1.CreateDocumentRequest{
			Spec:   &granaryv1.DocumentSpec{KnowledgeBase: kb.name, DisplayName: name},
			Source: &granaryv1.CreateDocumentRequest_Text{Text: fmt.Sprintf("%s, part %d\n\n%s", kb.name, i, text)}}, &granaryv1.CreateDocumentResponse{})
		if err != nil {
			return err
		}
	}
	return c.fleet.await(ctx, kb.name+" to be ready", func() (bool, error) {
		var out granaryv1.GetKnowledgeBaseResponse
		err := c.call(ctx, m, kb, "KnowledgeBaseService/GetKnowledgeBase", "", &granaryv1.GetKnowledgeBaseRequest{Name: kb.name}, &out)
		return out.GetKnowledgeBase().GetDocumentCounts()["READY"] == int64(docs), err
	})
}

// describe writes a description.
func (c *fleetClient) describe(ctx context.Context, m *member, kb fleetKB, text, key string) error {
	return c.call(ctx, m, kb, "KnowledgeBaseService/UpdateKnowledgeBase", key, &granaryv1.UpdateKnowledgeBaseRequest{
		KnowledgeBase: &granaryv1.KnowledgeBase{Name: "knowledgeBases/" + kb.name, Description: text},
		UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"description"}}}, &granaryv1.UpdateKnowledgeBaseResponse{})
}

// find searches and expects hits.
func (c *fleetClient) find(ctx context.Context, m *member, kb fleetKB, query string) error {
	var out granaryv1.SearchResponse
	if err := c.call(ctx, m, kb, "SearchService/Search", "", &granaryv1.SearchRequest{KnowledgeBase: kb.name, Query: query}, &out); err != nil {
		return err
	}
	if len(out.GetHits()) == 0 {
		return fmt.Errorf("%w: %s finds nothing", errRefused, kb.name)
	}
	return nil
}

package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

func tarOf(t *testing.T, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: entries[i], Mode: 0o600, Size: int64(len(entries[i+1]))})); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, entries[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// parts reads an archive and tells what it is made of.
func parts(archive []byte) (seen []string, err error) {
	err = tenantParts(bytes.NewReader(archive), func(t *granaryv1.Tenant) error {
		seen = append(seen, t.GetName())
		return nil
	}, func(id string, r io.Reader) error {
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			data, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			seen = append(seen, fmt.Sprintf("%s: %s=%s", id, h.Name, data))
		}
	})
	return seen, err
}

func TestAnArchiveOfATenantIsReadAsThoseOfItsKnowledgeBases_I3(t *testing.T) {
	whole := tarOf(t, "tenant.json", `{"name":"tenants/acme","unknownOfLater":1}`,
		"knowledge_bases/a/granary.json", "1", "knowledge_bases/a/sources/x", "22", "knowledge_bases/a/manifest.json", "3",
		"knowledge_bases/b/granary.json", "4", "knowledge_bases/b/manifest.json", "5", "manifest.json", "{}")
	want := []string{"tenants/acme", "a: granary.json=1", "a: sources/x=22", "a: manifest.json=3", "b: granary.json=4", "b: manifest.json=5"}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, archive := range [][]byte{whole, z.EncodeAll(whole, nil)} {
		if got, err := parts(archive); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v %v", got, err)
		}
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "a knowledge base's": tarOf(t, "granary.json", "{}"), "no JSON": tarOf(t, "tenant.json", "x", "manifest.json", "{}"),
		"no manifest": tarOf(t, "tenant.json", "{}", "knowledge_bases/a/granary.json", "1"), "cut off": whole[:2000],
		"another folder": tarOf(t, "tenant.json", "{}", "../a/granary.json", "1", "manifest.json", "{}"),
		"no id":          tarOf(t, "tenant.json", "{}", "knowledge_bases//x", "1", "manifest.json", "{}"),
	} {
		if got, err := parts(bad); !errors.Is(err, errTenantArchive) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

func TestAFailedPartEndsTheImportOfATenant_I3(t *testing.T) {
	broken := errors.New("the server refuses")
	err := tenantParts(bytes.NewReader(tarOf(t, "tenant.json", "{}", "knowledge_bases/a/granary.json", "1", "knowledge_bases/a/sources/x", string(make([]byte, 1<<20)),
		"manifest.json", "{}")), func(*granaryv1.Tenant) error { return nil }, func(string, io.Reader) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

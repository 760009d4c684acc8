// Package metrics shows to Prometheus what a node counts (F1).
//
// Each node has a registry of its own, so that several can live in one process.
// Parts that count by themselves are read at a scrape; a scrape asks no store and
// no other node.
//
// What becomes the value of a label is bounded, and written in this program:
// methods, codes, reasons, causes. Tenants are not labels. There may be a hundred
// thousand of them, and their names are nobody's business at an endpoint without
// credentials; an operator may list up to [MaxTenants] that get a series each.
package metrics

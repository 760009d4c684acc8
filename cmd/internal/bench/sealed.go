package main

import (
	"context"
	"errors"

	"granary.dev/granary/storage/embedded"
	"granary.dev/granary/storage/sealed"
)

// openStore opens a store as a node that is alone has it: encrypted.
func openStore(ctx context.Context, dir string) (*sealed.Store, error) {
	text, err := sealed.NewMasterKey()
	if err != nil {
		return nil, err
	}
	master, err := sealed.FixedMaster(text)
	if err != nil {
		return nil, err
	}
	inner, err := embedded.Open(ctx, embedded.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	store, err := sealed.Open(ctx, inner, sealed.Config{Master: master, Lone: true, Idle: trimAfter})
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	return store, nil
}

//go:build !unix

package audit

import (
	"fmt"
	"os"
	"path/filepath"
)

// lockFolder opens the file only: there is no lock that ends with its holder here.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return f, nil
}

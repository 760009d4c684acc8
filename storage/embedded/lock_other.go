//go:build !unix

package embedded

import (
	"errors"
	"os"
)

// lockFolder refuses: without flock nothing would keep a second process away.
func lockFolder(string) (*os.File, error) {
	return nil, errors.New("embedded: the embedded store needs a unix system (flock)")
}

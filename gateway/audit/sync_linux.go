package audit

import (
	"errors"
	"os"
	"syscall"
)

// syncData makes a file's data durable.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

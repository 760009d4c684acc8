package node

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// scratch is a temporary file whose bytes are encrypted with a key that only this
// process has: what is left of it on the disk, after its removal or a crash, is of no
// use. It is written once from the start and then read anywhere.
type scratch struct {
	f     *os.File
	block cipher.Block
}

func newScratch(dir, pattern string) (*scratch, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	return &scratch{f: f, block: block}, nil
}

// at is the key stream from a block of the file on.
func (s *scratch) at(block int64) cipher.Stream {
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], uint64(block))
	return cipher.NewCTR(s.block, counter[:])
}

// ReadFrom implements io.ReaderFrom, for an empty file.
func (s *scratch) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(cipher.StreamWriter{S: s.at(0), W: s.f}, r)
}

// ReadAt implements io.ReaderAt.
func (s *scratch) ReadAt(p []byte, offset int64) (int, error) {
	n, err := s.f.ReadAt(p, offset)
	stream := s.at(offset / aes.BlockSize)
	var skip [aes.BlockSize]byte
	stream.XORKeyStream(skip[:offset%aes.BlockSize], skip[:offset%aes.BlockSize])
	stream.XORKeyStream(p[:n], p[:n])
	return n, err
}

// Remove closes the file and removes it.
func (s *scratch) Remove() error { return errors.Join(s.f.Close(), os.Remove(s.f.Name())) }

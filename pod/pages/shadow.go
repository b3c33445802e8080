package pages

import (
	"hash/maphash"
)

// Shadow is what a source remembers of the memory that its target holds: a hash of each page, eight bytes for 4 KiB. Memory can so go over
// while a pod runs without any help of the kernel's: what changed shows when the pages are read again.
//
// The hash is seeded at random, so a program can't aim at two contents with the same one; that a page that did change has its old hash by
// chance is as likely as guessing a 64-bit number.
type Shadow struct {
	seed   maphash.Seed
	images map[uint64]*shadowImage // by destination, as CRIU's page server protocol has it
}

func newShadow() *Shadow { return &Shadow{seed: maphash.MakeSeed(), images: map[uint64]*shadowImage{}} }

// image returns what is known of a destination, nil if that is nothing.
func (s *Shadow) image(destination uint64) *shadowImage {
	if s == nil {
		return nil
	}
	return s.images[destination]
}

// shadowImage is the part of one address space.
type shadowImage struct {
	seed   maphash.Seed
	chunks map[uint64]*[chunkPages]uint64
}

// chunkPages is how many pages share one entry of the map.
const chunkPages = 512

// hash is never 0, which stands for a page that the target does not have.
func (m *shadowImage) hash(page []byte) uint64 { return max(maphash.Bytes(m.seed, page), 1) }

// has says whether the target holds this content of the page at an address.
func (m *shadowImage) has(address uint64, page []byte) bool {
	n := address / pageSize
	chunk := m.chunks[n/chunkPages]
	if chunk == nil {
		return false
	}
	was := chunk[n%chunkPages]
	return was != 0 && was == m.hash(page)
}

// renew notes the content of the page at an address and says whether it is news.
func (m *shadowImage) renew(address uint64, page []byte) bool {
	n := address / pageSize
	chunk := m.chunks[n/chunkPages]
	if chunk == nil {
		chunk = new([chunkPages]uint64)
		m.chunks[n/chunkPages] = chunk
	}
	now := m.hash(page)
	was := chunk[n%chunkPages]
	chunk[n%chunkPages] = now
	return was != now
}

package pages

import (
	"hash/maphash"
)

// Shadow is what a source remembers of the memory that its target holds: a hash of each page, eight bytes for 4 KiB. Memory can so go over
// while a pod runs without any help of the kernel's: what changed shows when the pages are read again.
//
// The hash is seeded at random, so a program can't aim at two contents with the same one; that a page that did change has its old hash by
// chance is as likely as guessing a 64-bit number.
//
// Where the kernel tracks what a process writes to, no page is hashed: what is remembered is the frame in which a page of the target's lay here.
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

// Tracked says whether the kernel has tracked what is written to the memory of which the target has some.
func (s *Shadow) Tracked() bool {
	for _, m := range s.images {
		if m.process != nil {
			return true
		}
	}
	return false
}

// close releases what it holds of processes.
func (s *Shadow) close() {
	if s == nil {
		return
	}
	for _, m := range s.images {
		m.process.close()
		m.process = nil
	}
}

// shadowImage is the part of one address space.
type shadowImage struct {
	seed    maphash.Seed
	chunks  map[uint64]*[chunkPages]uint64
	process *tracked // nil if hashes tell what has changed

	near  uint64 // the number of the chunk that was last asked for
	chunk *[chunkPages]uint64
}

// chunkPages is how many pages share one entry of the map.
const chunkPages = 512

// hash is never 0, which stands for a page that the target does not have.
func (m *shadowImage) hash(page []byte) uint64 { return max(maphash.Bytes(m.seed, page), 1) }

// has says whether the target holds this content of the page at an address. Of a tracked process CRIU sends only what has changed.
func (m *shadowImage) has(address uint64, page []byte) bool {
	if m.process != nil {
		return false
	}
	was := m.at(address)
	return was != 0 && was == m.hash(page)
}

// at is what is noted of the page at an address: 0 if the target does not have it.
func (m *shadowImage) at(address uint64) uint64 {
	n := address / pageSize
	if m.find(n); m.chunk == nil {
		return 0
	}
	return m.chunk[n%chunkPages]
}

// find has chunk be the one of the n-th page, nil if there is none.
func (m *shadowImage) find(n uint64) {
	if m.chunk == nil || m.near != n/chunkPages {
		m.near, m.chunk = n/chunkPages, m.chunks[n/chunkPages]
	}
}

// lose forgets the pages of a span: what the target has of them is of old.
func (m *shadowImage) lose(s span) {
	for ; s.from < s.to; s.from += pageSize {
		if m.at(s.from) != 0 {
			*m.slot(s.from) = 0
		}
	}
}

// renew notes the content of the page at an address and says whether it is news. Of a tracked process it is: differs has said so.
func (m *shadowImage) renew(address uint64, page []byte) bool {
	if m.process != nil {
		return true
	}
	slot, now := m.slot(address), m.hash(page)
	was := *slot
	*slot = now
	return was != now
}

// slot is where something is noted of the page at an address.
func (m *shadowImage) slot(address uint64) *uint64 {
	n := address / pageSize
	if m.find(n); m.chunk == nil {
		m.chunk = new([chunkPages]uint64)
		m.chunks[m.near] = m.chunk
	}
	return &m.chunk[n%chunkPages]
}

// differs says by the page map's entry whether a page of a tracked process has to be sent, and notes then that it was: somebody has written to it since the kernel
// began to track that, or it is not the page that lay there before. mremap(2) moves page tables as they are, with pages that nobody has written to.
func (m *shadowImage) differs(address, entry uint64) bool {
	if entry&pagemapSoftDirty == 0 {
		if was := m.at(address); was == 0 || was&^frameZero == frame(entry) {
			return false
		}
	}
	*m.slot(address) = frame(entry)
	return true
}

// frameZero, where the page map has the soft-dirty bit, is noted beside the frame of a page that was full of zeros.
const frameZero = pagemapSoftDirty

// blank notes that the page at an address is full of zeros, which are not sent: what the target may have of it is of old.
func (m *shadowImage) blank(address uint64) {
	if m.process == nil {
		m.lose(span{address, address + pageSize})
		return
	}
	*m.slot(address) |= frameZero
}

// frame is what an entry of the page map says of where the page lies, never 0 for one that lies somewhere.
func frame(entry uint64) uint64 { return entry & (pagemapPresent | pagemapSwapped | pagemapFrame) }

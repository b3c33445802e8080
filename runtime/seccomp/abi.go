package seccomp

import (
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The ABIs, in the order of the columns of table.
const (
	amd64 = iota
	x86
	x32
	arm64
	arm
	abiCount
)

// entry is one system call of table.
type entry struct {
	name    string
	numbers [abiCount]int16
	mux     uint8 // see older
}

const (
	noCall      = -1      // in place of a number: the ABI has no such call
	tableSize   = 1024    // more than the largest number in table
	privateBase = 1000    // in table the 32-bit ARM ABI's own calls count from here
	privateCall = 0xf0000 // and in the kernel from here, __ARM_NR_BASE
	x32Bit      = 1 << 30 // __X32_SYSCALL_BIT
)

// abiInfo is what there is to know of an ABI.
type abiInfo struct {
	name  string
	arch  specs.Arch
	audit uint32 // AUDIT_ARCH_*, what the kernel calls it
	wide  bool   // arguments have 64 bits that count; of the others the lower 32 are looked at, as in libseccomp
	muxed bool   // socket and System V IPC calls may come by way of socketcall and ipc
}

var abis = [abiCount]abiInfo{
	amd64: {"x86_64", specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, true, false},
	x86:   {"x86", specs.ArchX86, unix.AUDIT_ARCH_I386, false, true},
	x32:   {"x32", specs.ArchX32, unix.AUDIT_ARCH_X86_64, false, false},
	arm64: {"aarch64", specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, true, false},
	arm:   {"arm", specs.ArchARM, unix.AUDIT_ARCH_ARM, false, false},
}

// machines are the ABIs that the kernel of a machine has, by GOARCH, the native one first.
var machines = map[string][]int{"amd64": {amd64, x86, x32}, "arm64": {arm64, arm}}

// number turns a number of table into the kernel's.
func number(abi int, n uint32) uint32 {
	switch {
	case abi == x32:
		return n | x32Bit
	case abi == arm && n >= privateBase:
		return n - privateBase + privateCall
	}
	return n
}

// lookup finds a system call by its name. Binary search over static data: a map would have to be made at every start of zap.
func lookup(name string) (*entry, bool) {
	i := search(name, 0)
	if i < 0 {
		return nil, false
	}
	return &table[i], true
}

// search returns the index in table of a system call, or -1. Profiles have their names in order mostly, so it looks at what follows
// a hint first.
func search(name string, hint int) int {
	for i := hint; i < min(hint+3, len(table)); i++ {
		if table[i].name == name {
			return i
		}
	}
	i := sort.Search(len(table), func(i int) bool { return table[i].name >= name })
	if i == len(table) || table[i].name != name {
		return -1
	}
	return i
}

// nameOf returns the name of a system call by its number in table.
func nameOf(abi int, n uint32) string {
	for i := range table {
		if table[i].numbers[abi] == int16(n) {
			return table[i].name
		}
	}
	return ""
}

// Some calls of the x86 ABI may also come by way of an older one, with what to do as its first argument.
const (
	callSocket = 102 // socketcall(2)
	callIPC    = 117 // ipc(2)
	muxIPC     = 100 // in entry.mux ipc's values are this much larger
)

// older returns the number of the x86 ABI's older way to a call and the value of its first argument.
func (e *entry) older() (by int, value uint64, ok bool) {
	switch {
	case e.mux == 0:
		return 0, 0, false
	case e.mux >= muxIPC:
		return callIPC, uint64(e.mux - muxIPC), true
	}
	return callSocket, uint64(e.mux), true
}

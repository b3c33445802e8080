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

// mux is the older way to a system call: socketcall(2) or ipc(2) with what to do as the first argument.
type mux struct {
	name  string // of the call
	by    uint16 // number of socketcall or ipc in the x86 ABI
	value uint8
}

const (
	callSocket = 102
	callIPC    = 117
)

// muxes are the calls behind socketcall (linux/net.h) and ipc (linux/ipc.h), by name.
var muxes = [...]mux{
	{"accept", callSocket, 5},
	{"accept4", callSocket, 18},
	{"bind", callSocket, 2},
	{"connect", callSocket, 3},
	{"getpeername", callSocket, 7},
	{"getsockname", callSocket, 6},
	{"getsockopt", callSocket, 15},
	{"listen", callSocket, 4},
	{"msgctl", callIPC, 14},
	{"msgget", callIPC, 13},
	{"msgrcv", callIPC, 12},
	{"msgsnd", callIPC, 11},
	{"recv", callSocket, 10},
	{"recvfrom", callSocket, 12},
	{"recvmmsg", callSocket, 19},
	{"recvmsg", callSocket, 17},
	{"semctl", callIPC, 3},
	{"semget", callIPC, 2},
	{"semop", callIPC, 1},
	{"semtimedop", callIPC, 4},
	{"send", callSocket, 9},
	{"sendmmsg", callSocket, 20},
	{"sendmsg", callSocket, 16},
	{"sendto", callSocket, 11},
	{"setsockopt", callSocket, 14},
	{"shmat", callIPC, 21},
	{"shmctl", callIPC, 24},
	{"shmdt", callIPC, 22},
	{"shmget", callIPC, 23},
	{"shutdown", callSocket, 13},
	{"socket", callSocket, 1},
	{"socketpair", callSocket, 8},
}

// muxed finds the older way to a system call by the call's name.
func muxed(name string) (*mux, bool) {
	i := sort.Search(len(muxes), func(i int) bool { return muxes[i].name >= name })
	if i == len(muxes) || muxes[i].name != name {
		return nil, false
	}
	return &muxes[i], true
}

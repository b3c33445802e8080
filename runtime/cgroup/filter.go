package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf/asm"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// accessBits are the accesses to a device that a rule may name.
var accessBits = map[rune]int32{'m': unix.BPF_DEVCG_ACC_MKNOD, 'r': unix.BPF_DEVCG_ACC_READ, 'w': unix.BPF_DEVCG_ACC_WRITE}

const accessAll = unix.BPF_DEVCG_ACC_MKNOD | unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE

// applyDeviceFilter attaches a program to a v2 group that the kernel asks about each access to a device, in the place of the one that
// the group had from zap. The library that the instructions are from has programs too, but in those a rule for reading also allows to open
// for reading and writing. A user who may not attach programs does without: what devices he can open is up to their permissions.
func (c *Cgroup) applyDeviceFilter(rules []specs.LinuxDeviceCgroup) error {
	insts, err := deviceFilter(withDefaults(rules))
	if err != nil {
		return fieldError("devices", "devices", err)
	}
	dir, err := open(c.UnifiedDir(), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fieldError("devices", "devices", err)
	}
	defer unix.Close(dir)
	program, err := loadProgram(insts)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		return nil
	}
	if err != nil {
		return fieldError("devices", "devices", err)
	}
	defer unix.Close(program)
	old := attachedProgram(dir)
	if old >= 0 {
		defer unix.Close(old)
	}
	return fieldError("devices", "devices", attachProgram(dir, program, old))
}

// deviceFilter translates rules into a program. The last rule that speaks about an access decides, as when v1's files are
// written in order: an "allow" when it covers all that is wanted at once, a "deny" when it covers any of it. What no rule
// speaks about is denied.
func deviceFilter(rules []specs.LinuxDeviceCgroup) (asm.Instructions, error) {
	// R1 is struct bpf_cgroup_dev_ctx: access_type (type, and the access shifted by 16), major, minor.
	insts := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Half),
		asm.LoadMem(asm.R3, asm.R1, 0, asm.Word),
		asm.RSh.Imm32(asm.R3, 16),
		asm.LoadMem(asm.R4, asm.R1, 4, asm.Word),
		asm.LoadMem(asm.R5, asm.R1, 8, asm.Word),
	}
	label := ""
	for i := len(rules) - 1; i >= 0; i-- {
		next := fmt.Sprintf("rule-%d", i)
		block, all, err := deviceBlock(rules[i], next)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
		if label != "" {
			block[0] = block[0].WithSymbol(label)
		}
		insts, label = append(insts, block...), next
		if all { // nothing behind it can be reached, and the kernel refuses such code
			return insts, nil
		}
	}
	return append(insts, asm.Mov.Imm32(asm.R0, 0).WithSymbol(label), asm.Return()), nil
}

// deviceBlock returns the instructions of one rule: jumps to next unless it speaks about the access, then the verdict. all
// says that it speaks about everything.
func deviceBlock(r specs.LinuxDeviceCgroup, next string) (block asm.Instructions, all bool, err error) {
	var bits int32
	for _, letter := range deviceAccess(r) {
		bit, ok := accessBits[letter]
		if !ok {
			return nil, false, fmt.Errorf("access %q has other letters than r, w and m", r.Access)
		}
		bits |= bit
	}
	switch deviceType(r) {
	case "c":
		block = append(block, asm.JNE.Imm(asm.R2, unix.BPF_DEVCG_DEV_CHAR, next))
	case "b":
		block = append(block, asm.JNE.Imm(asm.R2, unix.BPF_DEVCG_DEV_BLOCK, next))
	case "a":
	default:
		return nil, false, fmt.Errorf("unknown type %q", r.Type)
	}
	if bits != accessAll {
		block = append(block, asm.Mov.Reg32(asm.R1, asm.R3))
		if r.Allow { // wanted and not covered: not this rule's to allow
			block = append(block, asm.And.Imm32(asm.R1, accessAll&^bits), asm.JNE.Imm(asm.R1, 0, next))
		} else {
			block = append(block, asm.And.Imm32(asm.R1, bits), asm.JEq.Imm(asm.R1, 0, next))
		}
	}
	for _, n := range []struct {
		value    *int64
		register asm.Register
	}{{r.Major, asm.R4}, {r.Minor, asm.R5}} {
		if !strings.HasPrefix(deviceNumber(n.value), "*") {
			block = append(block, asm.JNE.Imm(n.register, int32(*n.value), next))
		}
	}
	verdict := int32(0)
	if r.Allow {
		verdict = 1
	}
	all = len(block) == 0
	return append(block, asm.Mov.Imm32(asm.R0, verdict), asm.Return()), all, nil
}

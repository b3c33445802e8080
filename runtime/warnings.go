package runtime

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// warnCapabilities logs which of a process's capabilities it will not get: those that nobody knows, and those that this process does not
// have to give; a user namespace has all of them. The OCI specification wants a warning, and the container to run (config.md, Linux process).
func (r *Runtime) warnCapabilities(id string, s *specs.Spec, p *specs.Process) {
	if p == nil || p.Capabilities == nil {
		return
	}
	missing := spec.UnknownCapabilities(p.Capabilities)
	if held := heldCapabilities(); held != 0 && namespaceIndex(s, specs.UserNamespace, "any") < 0 {
		for _, set := range [][]string{p.Capabilities.Permitted, p.Capabilities.Inheritable} {
			for _, name := range set {
				if n, known := spec.CapabilityNumber(name); known && held&(1<<n) == 0 && !slices.Contains(missing, name) {
					missing = append(missing, name)
				}
			}
		}
	}
	var notRaised []string // bundles of an old `runc spec` have some
	for _, name := range p.Capabilities.Ambient {
		if !slices.Contains(missing, name) && !(slices.Contains(p.Capabilities.Inheritable, name) && slices.Contains(p.Capabilities.Permitted, name)) {
			notRaised = append(notRaised, name)
		}
	}
	if len(notRaised) > 0 { // so begins runc's warning, of which there is one for each
		r.log.Warn(fmt.Sprintf("can't raise ambient capability %s: not both inheritable and permitted", strings.Join(notRaised, ", ")), "container", id)
	}
	if len(missing) > 0 {
		r.log.Warn("ignoring unknown or unavailable capabilities", "container", id, "capabilities", strings.Join(missing, " "))
	}
}

// maskText is a list of CPUs such as 0-3,8 as a number in hexadecimal, for the log.
func maskText(list string) string {
	mask := new(big.Int)
	for part := range strings.SplitSeq(list, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		from, _ := strconv.Atoi(first)
		to, _ := strconv.Atoi(last)
		for n := from; n <= min(to, 1<<16); n++ {
			mask.SetBit(mask, n, 1)
		}
	}
	return fmt.Sprintf("%#x", mask)
}

package seccomp

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// String shows the policy for people: the default action, then for each ABI the calls by what happens to them, those of which the
// arguments matter last.
func (p *Policy) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "default %s", p.Default)
	if !p.Default.permissive() && p.Default != refuseNew {
		fmt.Fprintf(&out, ", %s for calls newer than the profile", refuseNew)
	}
	fmt.Fprintf(&out, "; %s for other ABIs\n", refuseArch)
	for i := range p.abis {
		p.abis[i].text(&out, p)
	}
	return out.String()
}

// text shows one ABI.
func (a *abiPolicy) text(out *strings.Builder, p *Policy) {
	byAction := map[Action][]string{}
	var conditional []string
	for n, v := range a.verdicts {
		name := ""
		if v.kind != byDefault {
			name = nameOf(a.abi, uint32(n))
		}
		switch v.kind {
		case fixed:
			byAction[v.action] = append(byAction[v.action], name)
		case depends:
			for _, r := range p.calls[v.call].rules {
				var parts []string
				for _, c := range r.conditions {
					parts = append(parts, c.String())
				}
				conditional = append(conditional, fmt.Sprintf("  %s %s if %s\n", r.action, name, strings.Join(parts, " and ")))
			}
		}
	}
	fmt.Fprintf(out, "%s\n", abis[a.abi].name)
	var all []Action
	for action := range byAction {
		all = append(all, action)
	}
	slices.Sort(all)
	for _, action := range all {
		slices.Sort(byAction[action])
		wrap(out, "  "+action.String(), byAction[action])
	}
	for _, line := range conditional {
		out.WriteString(line)
	}
}

// wrap writes words in lines that are not too long.
func wrap(out *strings.Builder, head string, words []string) {
	const width = 120
	line := head
	for _, w := range words {
		if len(line)+1+len(w) > width {
			out.WriteString(line + "\n")
			line = "   "
		}
		line += " " + w
	}
	out.WriteString(line + "\n")
}

var operators = map[specs.LinuxSeccompOperator]string{
	specs.OpEqualTo: "==", specs.OpNotEqual: "!=", specs.OpGreaterThan: ">", specs.OpGreaterEqual: ">=", specs.OpLessThan: "<",
	specs.OpLessEqual: "<=",
}

// String returns for instance "arg0 & 0x7e020000 == 0x0".
func (c *condition) String() string {
	if c.op == specs.OpMaskedEqual {
		return fmt.Sprintf("arg%d & %#x == %#x", c.index, c.mask, c.value)
	}
	return fmt.Sprintf("arg%d %s %#x", c.index, operators[c.op], c.value)
}

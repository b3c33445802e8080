package seccomp

import (
	"cmp"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// order puts the rules for one call in the order in which they are asked. Where several apply with different actions, the specification
// says nothing; libseccomp asks those on later arguments first, then comparisons for equality, upper bounds and lower bounds, and the
// tightest bound first. So does this.
func (c *call) order() {
	contested := func(r rule) bool { return r.action != c.rules[0].action }
	if !slices.ContainsFunc(c.rules, contested) {
		return
	}
	keys := make(map[*condition][]sortKey, len(c.rules))
	for _, r := range c.rules {
		keys[&r.conditions[0]] = sortKeys(r.conditions, c.wide)
	}
	slices.SortStableFunc(c.rules, func(a, b rule) int {
		return slices.CompareFunc(keys[&a.conditions[0]], keys[&b.conditions[0]], compareKeys)
	})
}

// sortKey is what a comparison of one 32-bit word is ordered by.
type sortKey struct {
	word  int
	kind  int
	value uint32
}

func compareKeys(a, b sortKey) int {
	return cmp.Or(cmp.Compare(b.word, a.word), cmp.Compare(b.kind, a.kind), cmp.Compare(b.value, a.value))
}

// sortKeys returns the keys of a rule's comparisons, those on the first argument first.
func sortKeys(conditions []condition, wide bool) (out []sortKey) {
	sorted := slices.Clone(conditions)
	slices.SortStableFunc(sorted, func(a, b condition) int { return cmp.Compare(a.index, b.index) })
	for _, c := range sorted {
		kind, value := 3, c.value
		switch c.op {
		case specs.OpLessEqual, specs.OpLessThan:
			kind, value = 2, ^value
		case specs.OpGreaterEqual, specs.OpGreaterThan:
			kind = 1
		}
		low, high := 2*int(c.index), 2*int(c.index)+1
		if wide && (c.op != specs.OpMaskedEqual || c.mask>>32 != 0) {
			out = append(out, sortKey{high, kind, uint32(value >> 32)})
		}
		if c.op != specs.OpMaskedEqual || uint32(c.mask) != 0 {
			out = append(out, sortKey{low, kind, uint32(value)})
		}
	}
	return out
}

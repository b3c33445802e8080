package boot

import (
	"slices"
	"strings"
	"testing"
)

func TestFinalEnvironment(t *testing.T) {
	for _, c := range []struct{ env, home, want string }{
		{"A=1 B=2", "", "A=1 B=2"},
		{"A=1 B=2 A=3", "", "B=2 A=3"},
		{"A=1 A= B", "", "A= B"},
		{"A=1", "/root", "A=1 HOME=/root"},
		{"HOME= A=1", "/root", "A=1 HOME=/root"},
		{"HOME=/one HOME= A=1", "/root", "A=1 HOME=/root"},
		{"HOME=/one A=1", "/root", "HOME=/one A=1"},
		{"HOME=", "", "HOME="},
	} {
		if got := finalEnvironment(strings.Fields(c.env), c.home); !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%s with home %q: %v, want %s", c.env, c.home, got, c.want)
		}
	}
}

package main

import (
	"slices"
	"testing"
)

// TestVerbNames checks that every verb has the name that it is looked up by.
func TestVerbNames(t *testing.T) {
	for _, v := range verbs {
		if got := v.build(new(globals)).Name(); got != v.name {
			t.Errorf("verb %s is called %s", v.name, got)
		}
	}
}

// TestNamed checks which verbs are built for a command line.
func TestNamed(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string // nil for all
	}{
		{[]string{"--root", "run", "state", "c1"}, []string{"run", "state"}},
		{[]string{"pod", "list"}, []string{"list", "pod"}},
		{[]string{"migrate"}, []string{"migrate"}},
		{nil, nil},
		{[]string{"--version"}, nil},
		{[]string{"nothing"}, nil},
		{[]string{"--help", "run"}, nil},
		{[]string{"help", "run"}, nil},
		{[]string{"__complete", "run", ""}, nil},
	} {
		var got []string
		for _, v := range named(c.args) {
			got = append(got, v.name)
		}
		if c.want == nil && len(got) != len(verbs) || c.want != nil && !slices.Equal(got, c.want) {
			t.Errorf("named(%q) = %q, want %q", c.args, got, c.want)
		}
	}
}

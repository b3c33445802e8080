package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// normalize turns long flags with one dash, as go-runc sends them (-no-subreaper), into those with two dashes that pflag reads. What
// stands behind a command's own program is left as it is.
func normalize(root *cobra.Command, args []string) []string {
	out := make([]string, 0, len(args))
	at := root
	for i := 0; i < len(args); i++ {
		arg := args[i]
		name, isFlag := flagName(arg)
		switch {
		case arg == "--":
			return append(out, args[i:]...)
		case !isFlag:
			if sub := subcommand(at, arg); sub != nil {
				at = sub
			} else if at != root && hasProgram(at) {
				return append(out, args[i:]...)
			}
			out = append(out, arg)
			continue
		}
		f := lookupFlag(at, name)
		if f != nil && len(name) > 1 && !strings.HasPrefix(arg, "--") {
			arg = "-" + arg
		}
		out = append(out, arg)
		if f != nil && f.NoOptDefVal == "" && !strings.Contains(arg, "=") && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out
}

// flagName is the name of the flag that arg gives: all of -name and --name=value, and the one letter that pflag knows a flag by. A single
// dash is no flag but an argument.
func flagName(arg string) (name string, isFlag bool) {
	name, isFlag = strings.CutPrefix(arg, "-")
	name = strings.TrimPrefix(name, "-")
	name, _, _ = strings.Cut(name, "=")
	return name, isFlag && name != ""
}

// lookupFlag finds a flag of a command, its own or one that it has from above.
func lookupFlag(cmd *cobra.Command, name string) *pflag.Flag {
	for c := cmd; c != nil; c = c.Parent() {
		sets := []*pflag.FlagSet{c.PersistentFlags()}
		if c == cmd {
			sets = append(sets, c.Flags())
		}
		for _, set := range sets {
			if f := set.Lookup(name); f != nil {
				return f
			}
			if len(name) == 1 {
				if f := set.ShorthandLookup(name); f != nil {
					return f
				}
			}
		}
	}
	return nil
}

// subcommand is the command below cmd that has a name.
func subcommand(cmd *cobra.Command, name string) *cobra.Command {
	for _, sub := range cmd.Commands() {
		if sub.Name() == name || sub.HasAlias(name) {
			return sub
		}
	}
	return nil
}

// hasProgram says whether the last arguments of a command are a program with flags of its own.
func hasProgram(cmd *cobra.Command) bool {
	switch cmd.Name() {
	case "exec", "ps":
		return true
	case "run":
		return cmd.Parent().HasParent() // zap pod run
	}
	return false
}

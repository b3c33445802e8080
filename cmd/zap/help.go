package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// programName is what help and version call this program: zap, or runc where it is installed under that name for a caller that wants
// to find a runc.
func programName() string {
	if filepath.Base(os.Args[0]) == "runc" {
		return "runc"
	}
	return "zap"
}

// versionText is what --version prints, line by line as runc does: callers look for "NAME version X" and "spec: X".
func versionText() string {
	return fmt.Sprintf("%s version %s\ncommit: %s\nspec: %s\ngo: %s\n", programName(), version, commit, specs.Version, goruntime.Version())
}

// helpTemplate has the sections of runc's help, which scripts look for by their headings.
const helpTemplate = `NAME:
   {{.CommandPath}} - {{.Short}}

USAGE:
   {{useLine .}}
{{- with .Long}}

DESCRIPTION:
{{indent .}}{{end}}
{{- with .Example}}

EXAMPLES:
{{indent .}}{{end}}
{{- if .HasAvailableSubCommands}}

COMMANDS:
{{- range .Commands}}{{if .IsAvailableCommand}}
   {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}{{end}}
{{- if .HasAvailableLocalFlags}}

OPTIONS:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
{{- if .HasAvailableInheritedFlags}}

GLOBAL OPTIONS:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
{{- if .HasAvailableSubCommands}}

See '{{.CommandPath}} COMMAND --help' for one of the commands.{{end}}
`

// setHelp gives all commands below root the same help, and the same answer to a wrong use.
func setHelp(root *cobra.Command) {
	cobra.AddTemplateFuncs(map[string]any{"indent": indent, "useLine": useLine})
	root.SetHelpTemplate(helpTemplate)
	root.SetVersionTemplate(versionText())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd, err} })
	checkArguments(root)
}

// indent moves a text in by as much as the headings' contents.
func indent(text string) string {
	return "   " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n   ")
}

// useLine is the line that says how to call a command.
func useLine(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.CommandPath() + " [flags] COMMAND [flags] [ARG...]"
	}
	return cmd.UseLine()
}

// usageError is a command line that a command does not understand. It is one line: it ends in logs that are read line by line.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v (usage: %s; see '%s --help')", e.err, useLine(e.cmd), e.cmd.CommandPath())
}

func (e *usageError) Unwrap() error { return e.err }

// checkArguments has the commands say what they need when the number of arguments is wrong.
func checkArguments(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		checkArguments(sub)
	}
	check := cmd.Args
	if check == nil || cmd.HasSubCommands() {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) == nil {
			return nil
		}
		count := fmt.Sprintf("%d arguments", len(args))
		switch len(args) {
		case 0:
			count = "no argument"
		case 1:
			count = "one argument"
		}
		return &usageError{cmd, fmt.Errorf("%q does not work with %s", cmd.Name(), count)}
	}
}

// unknownCommand is the error for a word that is no command, with runc's text.
func unknownCommand(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err == nil || cmd != root || len(rest) == 0 {
		return err
	}
	_ = root.ParseFlags(args) // where the log is: without a command nothing has read it
	text := fmt.Sprintf("No help topic for '%s': there is no such command", firstWord(root, rest))
	if near := root.SuggestionsFor(firstWord(root, rest)); len(near) > 0 {
		text += fmt.Sprintf(" (did you mean %s?)", strings.Join(near, " or "))
	}
	return &usageError{root, errors.New(text)}
}

// firstWord is the first argument that is neither a flag nor a flag's value.
func firstWord(root *cobra.Command, args []string) string {
	for i := 0; i < len(args); i++ {
		name, isFlag := flagName(args[i])
		if !isFlag {
			return args[i]
		}
		if f := lookupFlag(root, name); f != nil && f.NoOptDefVal == "" && !strings.Contains(args[i], "=") {
			i++
		}
	}
	return ""
}

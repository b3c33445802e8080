package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/spec"
)

func newExplainCommand(*globals) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [BUNDLE]",
		Short: "Print the system calls that make a container of a bundle",
		Long: `Print the system calls that make a container of a bundle, in order, with the place in config.json that asks for each.

Nothing is made or changed. Joining the cgroup is left out: which calls that takes depends on the cgroup that create makes.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			b, err := spec.Load(dir)
			if err != nil {
				return err
			}
			facts := runtime.Facts("container", b, nil)
			facts.Gate = boot.GateSocket
			program, err := boot.Compile(b.Spec, facts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), program)
			return err
		},
	}
}

// printProgram prints what a dry run found.
func printProgram(program *boot.Program, err error) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(os.Stdout, program)
	return err
}

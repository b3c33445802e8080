package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

func newPsCommand(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "ps [flags] CONTAINER [PS-OPTION...]",
		Short: "List the processes of a container",
		Long: `List the processes of a container.

The table is what ps(1) prints with the options behind the container's name (default: -ef), without the processes of others. As JSON it is the
array of the processes' ids on the host.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if err != nil {
				return err
			}
			pids, err := c.Processes()
			if err != nil {
				return err
			}
			switch format {
			case "json":
				if pids == nil {
					pids = []int{}
				}
				return json.NewEncoder(cmd.OutOrStdout()).Encode(pids)
			case "table":
				return psTable(cmd.OutOrStdout(), pids, args[1:])
			}
			return errors.New("invalid format option")
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return cmd
}

// psTable prints the lines of ps that are about some processes.
func psTable(out io.Writer, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	text, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run ps %s: %w: %s", strings.Join(options, " "), err, text)
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("no PID field in the output of ps")
	}
	fmt.Fprintln(out, lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("read the output of ps: %w", err)
		}
		if slices.Contains(pids, pid) {
			fmt.Fprintln(out, line)
		}
	}
	return nil
}

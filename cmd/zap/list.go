package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

func newListCommand(g *globals) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List containers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The default directory is not there before the first container; another one that is not there is a mistake.
			if _, err := os.Stat(g.root); err != nil && g.root != defaultRoot {
				return fmt.Errorf("list containers: %w", err)
			}
			all, err := runtime.New(g.root, g.log).List()
			if err != nil {
				if len(all) == 0 {
					g.report(cmd.CommandPath(), err)
				} else {
					g.log.Warn("list containers", "error", err.Error())
				}
			}
			views := make([]containerView, 0, len(all))
			for _, c := range all {
				views = append(views, viewContainer(c))
			}
			return printList(cmd.OutOrStdout(), views, format, quiet)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the names")
	return cmd
}

// printList prints containers as runc list does.
func printList(out io.Writer, views []containerView, format string, quiet bool) error {
	switch {
	case quiet:
		for _, v := range views {
			fmt.Fprintln(out, v.ID)
		}
		return nil
	case format == "json":
		return json.NewEncoder(out).Encode(views)
	case format != "table":
		return fmt.Errorf("flag --format: %q is neither table nor json", format)
	}
	w := tabwriter.NewWriter(out, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, v := range views {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", v.ID, v.Pid, v.Status, v.Bundle, v.Created.Format(time.RFC3339Nano), v.Owner)
	}
	return w.Flush()
}

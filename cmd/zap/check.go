package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// checkStatus is how a row of `zap check` came out.
type checkStatus string

const (
	checkOK   checkStatus = "ok"
	checkWarn checkStatus = "warn" // zap works, with less than it could do
	checkFail checkStatus = "fail" // zap can't run or move pods here
)

// checkRow is one thing that zap needs or uses.
type checkRow struct {
	Name   string      `json:"name"`
	Status checkStatus `json:"status"`
	Value  string      `json:"value"`          // what is there
	Hint   string      `json:"hint,omitempty"` // what to do about it, when it is not ok
}

func newCheckCommand(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what this machine can and can't do, and what to do about it",
		Long: `Say what this machine can and can't do, and what to do about it.

Every row has a status: ok; warn, where zap works with less than it could do;
fail, where it can't run or move pods. A small tree of processes is dumped and
restored, and a network of the kind that pods have is made, both in namespaces
of their own: nothing is left behind.

The exit code is 1 when a row failed, 0 otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := textOrJSON(format); err != nil {
				return err
			}
			c, err := newChecker(g.root)
			if err != nil {
				return err
			}
			defer c.close()
			rows := c.all(cmd.Context())
			if err := printChecks(cmd.OutOrStdout(), rows, format); err != nil {
				return err
			}
			for _, r := range rows {
				if r.Status == checkFail {
					return &exitError{code: 1}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "text", "text or json")
	return cmd
}

// printChecks prints rows as a table with the hints below, or as a JSON array.
func printChecks(out io.Writer, rows []checkRow, format string) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	count := make(map[checkStatus]int)
	for _, r := range rows {
		count[r.Status]++
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Status, r.Name, oneLine(r.Value))
		if r.Hint != "" {
			fmt.Fprintf(w, "\t\t  %s\n", oneLine(r.Hint))
		}
	}
	fmt.Fprintf(w, "\n%d ok, %d to look at, %d that stop zap\n", count[checkOK], count[checkWarn], count[checkFail])
	return w.Flush()
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// checker runs the checks. What they have to write goes to a directory of its own.
type checker struct {
	cache string // keeps CRIU's kernel facts
	dir   string
}

// newChecker makes a checker that shares CRIU's cache with the pods of root
// when that is there, and leaves nothing in root when it is not.
func newChecker(root string) (*checker, error) {
	dir, err := os.MkdirTemp("", "zap-check-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the checks: %w", err)
	}
	c := &checker{cache: criuCache(root), dir: dir}
	if _, err := os.Stat(c.cache); errors.Is(err, os.ErrNotExist) {
		c.cache = dir
	}
	return c, nil
}

func (c *checker) close() { _ = os.RemoveAll(c.dir) }

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/runtime"
)

const pruneLong = `Remove what zap has kept for later and nothing on this host uses: lower layers that came with pods (ROOT/layers),
references to layers that are elsewhere on this host, which themselves stay, and what CRIU found out about this machine
before its last boot.

A pod that comes back brings a layer along again that was removed. While a pod is on its way in no layer is removed;
zap serve may run all the time.`

// prunedCache is the kind of a file of CRIU's cache.
const prunedCache = "criu cache"

// pruneResult is what zap prune --format json prints.
type pruneResult struct {
	DryRun  bool             `json:"dry_run"`
	Freed   int64            `json:"freed_bytes"`
	Removed []migrate.Pruned `json:"removed"`
}

func newPruneCommand(g *globals) *cobra.Command {
	var format string
	var dry bool
	cmd := &cobra.Command{
		Use:     "prune [flags]",
		Short:   "Remove layers and caches that nothing uses",
		Long:    pruneLong,
		Example: "  zap prune --dry-run\n  zap prune --format json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := textOrJSON(format); err != nil {
				return err
			}
			rt := runtime.New(g.root, g.log)
			removed, err := migrate.PruneLayers(cmd.Context(), rt, dry)
			caches, cerr := pruneCaches(criuCache(rt.Root()), dry)
			r := pruneResult{DryRun: dry, Removed: append(append([]migrate.Pruned{}, removed...), caches...)}
			for _, p := range r.Removed {
				r.Freed += p.Bytes
			}
			return errors.Join(err, cerr, r.print(cmd.OutOrStdout(), format))
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only print what would be removed")
	cmd.Flags().StringVar(&format, "format", "text", "text or json")
	return cmd
}

// pruneCaches removes what CRIU found out before the last boot.
func pruneCaches(dir string, dry bool) ([]migrate.Pruned, error) {
	stale, err := criu.StaleCache(dir)
	if err != nil {
		return nil, err
	}
	var done []migrate.Pruned
	var errs []error
	for _, path := range stale {
		p := migrate.Pruned{Kind: prunedCache, Path: path}
		info, err := os.Stat(path)
		if err == nil {
			p.Bytes = info.Size()
		}
		if err == nil && !dry {
			err = os.Remove(path)
		}
		switch {
		case errors.Is(err, os.ErrNotExist): // another one was faster
		case err != nil:
			errs = append(errs, fmt.Errorf("prune CRIU's cache: %w", err))
		default:
			done = append(done, p)
		}
	}
	return done, errors.Join(errs...)
}

func (r *pruneResult) print(out io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(r)
	}
	for _, p := range r.Removed {
		fmt.Fprintf(out, "%-10s  %10s  %s\n", p.Kind, size(p.Bytes), p.Path)
	}
	word := "freed"
	if r.DryRun {
		word = "to be freed"
	}
	_, err := fmt.Fprintf(out, "%s: %s\n", word, size(r.Freed))
	return err
}

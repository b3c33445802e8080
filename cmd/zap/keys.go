package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/pod/peer"
)

func newKeysCommand(*globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make the keys that hosts know each other by",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeysInitCommand())
	return cmd
}

func newKeysInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR HOST...",
		Short: "Make a CA in DIR and a key and certificate for each HOST",
		Long: `Make a CA in DIR and a key and certificate for each HOST.

  DIR/ca.crt, DIR/ca.key              the CA; its key is needed only to add hosts
  DIR/HOST/{ca.crt,cert.pem,key.pem}  what HOST needs: copy this directory there
                                      and name it in "zap serve --tls" and "zap migrate --tls"

Run it again with more hosts to add them. What is there is never replaced.`,
		Example: "  zap keys init /etc/zap/keys alpha beta",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := peer.InitKeys(args[0], args[1:])
			for _, m := range made {
				what, state := "host "+m.Host, "made"
				if m.Host == "" {
					what = "CA"
				}
				if !m.New {
					state = "there already"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s (%s)\n", what, state, m.Dir)
			}
			return err
		},
	}
}

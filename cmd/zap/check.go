package main

import "github.com/spf13/cobra"

// newCheckCommand is being written.
func newCheckCommand(*globals) *cobra.Command { return &cobra.Command{Use: "check", Hidden: true} }

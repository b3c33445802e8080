// Package demo is a program that moves a redis under load between two hosts and back, prints what happened as a timeline, and
// draws how long the client waited. The hosts are network namespaces, those of package e2e; everything else is real.
//
//	demo [-o build/demo.png]
//
// Environment: ZAP is the binary to show (bin/zap).
package main

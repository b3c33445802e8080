// Package bench is a program that compares zap with what a user would do by hand today, in one interleaved run: a redis of
// several sizes is moved between two hosts by `zap migrate` and by runc, CRIU and tar (byhand.sh), and containers are
// started and entered by zap, crun and runc. It prints a table and writes it as Markdown. The hosts are those of package e2e.
//
//	bench [-o FILE]
//
// Environment: ZAP is the binary under test (bin/zap); BENCH_MOVES how many moves of each kind and size (10); BENCH_RUNS how
// many starts of each runtime (100); BENCH_SIZES which sizes, in MB, separated by commas (10,300,2048); BENCH_QUICK=1 asks for
// fewer of everything; BENCH_ONLY=moves, byhand (moves without zap's) or starts leaves the rest out.
package main

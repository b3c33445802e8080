// Package stage lets a program outside of go test use package e2e, which wants a testing.TB for its errors and its cleaning up.
package stage

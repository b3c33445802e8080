// Package nofile is the limit on open descriptors that this process was started with.
//
// Package syscall raises the soft limit when it is initialised and keeps the old value to itself. A container must not inherit the raised
// one. This package imports nothing, so it is initialised before syscall (the language orders packages that are ready by their import
// path), and asks the kernel first.
package nofile

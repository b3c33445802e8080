// Package pages is the page channel: it carries the memory that CRIU dumps from one host to the images that CRIU restores on another.
//
// On the source a [Sender] hands CRIU one end of a socket pair as its page server (RPC option ps.fd), answers CRIU's protocol there and
// sends the pages over a [stream.Conn]. On the target [Receive] writes the pagemap and pages images into a directory, meant to be on
// tmpfs, as CRIU itself would have. No page touches a disk, CRIU opens no port, and the memory this takes is a few
// megabytes whatever the size of the pod.
package pages

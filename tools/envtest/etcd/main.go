// Command etcd is etcd's own server: the tests build it as a module, since no package ships it for every system.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }

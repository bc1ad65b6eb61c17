package main

import "context"

func (b *bench) swapAll(ctx context.Context) (bool, error) { return true, nil }

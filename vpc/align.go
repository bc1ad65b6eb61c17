package vpc

// align says which object of an old list each object of a new one is: its index there, or -1 for one that was not there. Two
// objects belong together when they are the same one (same), else when they have the same name. In lists by name, which
// those of a stored Spec are, it costs one call of same for every object that has not changed; in others it is slower.
func align[A, B any](old []A, new []B, same func(A, B) bool, oldName func(A) string, newName func(B) string) []int32 {
	at := make([]int32, len(new))
	var gone, come []int32 // what is not the same; few, as a rule
	i, j := 0, 0
	for i < len(old) && j < len(new) {
		if same(old[i], new[j]) {
			at[j] = int32(i)
			i, j = i+1, j+1
			continue
		}
		a, b := oldName(old[i]), newName(new[j])
		if a <= b {
			gone = append(gone, int32(i))
			i++
		}
		if a >= b {
			come = append(come, int32(j))
			j++
		}
	}
	for ; i < len(old); i++ {
		gone = append(gone, int32(i))
	}
	for ; j < len(new); j++ {
		come = append(come, int32(j))
	}
	if len(come) == 0 {
		return at
	}
	byName := make(map[string]int32, len(gone))
	for _, i := range gone {
		byName[oldName(old[i])] = i
	}
	for _, j := range come {
		at[j] = -1
		name := newName(new[j])
		if i, ok := byName[name]; ok {
			at[j] = i
			delete(byName, name)
		}
	}
	return at
}

// leftOut calls f for every object of the old list that align has placed nowhere in the new one.
func leftOut[A any](old []A, at []int32, f func(A)) {
	placed := make([]bool, len(old))
	for _, i := range at {
		if i >= 0 {
			placed[i] = true
		}
	}
	for i, there := range placed {
		if !there {
			f(old[i])
		}
	}
}

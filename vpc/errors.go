package vpc

import "errors"

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound         = errors.New("not found")
	ErrAmbiguous        = errors.New("the name is not unique")
	ErrEnrollmentClosed = errors.New("enrollment is closed")
	ErrKnownMAC         = errors.New("the MAC already belongs to an instance")
	ErrPoolExhausted    = errors.New("no free address")
	ErrGroupFull        = errors.New("the security group is full")
)

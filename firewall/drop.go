package firewall

import "gatehouse/vpc"

// Every drop has a name. What is refused for a reason goes to the reason's chain, which logs and drops; what a rule or
// an entry of somebody's refuses is logged under that rule's ID where it stands.

// refuse returns a rule that refuses for a reason. The reason's chain is added when the ruleset is put together.
func refuse(m Match, r vpc.Reason) Rule {
	return Rule{Match: m, Target: Target{Kind: Goto, Chain: reasonChain(r)}, Reason: r}
}

// reasonRules are the rules of a reason's chain.
func (f Features) reasonRules(r vpc.Reason) []Rule {
	return f.appendDrop(nil, Match{}, r, "")
}

// appendPolicy appends what a declared rule or entry does with what it matches.
func (f Features) appendPolicy(rules []Rule, m Match, p vpc.Policy, r vpc.Reason, id string) []Rule {
	if p == vpc.Accept {
		return append(rules, Rule{Match: m, ID: id, Reason: r})
	}
	return f.appendDrop(rules, m, r, id)
}

func (f Features) appendDrop(rules []Rule, m Match, r vpc.Reason, id string) []Rule {
	if f.NFLog {
		rules = append(rules, Rule{Match: m, Target: Target{Kind: NFLog, Log: string(r) + ":" + id}, ID: id})
	}
	return append(rules, Rule{Match: m, Target: Target{Kind: Drop}, ID: id, Reason: r})
}

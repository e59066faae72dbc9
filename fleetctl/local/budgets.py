"""AWS Budgets: moto's, with what it lacks. Budgets bear tags, and say whom their notifications tell."""

from __future__ import annotations

import json
from typing import Any

from moto.budgets.exceptions import NotFoundException
from moto.budgets.responses import BudgetsResponse


class LocalBudgets(BudgetsResponse):
    """The calls of AWS Budgets."""

    def create_budget(self) -> str:
        """As moto's, with the tags."""
        answer: str = super().create_budget()
        self._budget(self._get_param("Budget")["BudgetName"]).tags = self._get_param("ResourceTags", [])
        return answer

    def list_tags_for_resource(self) -> str:
        """The tags of a budget, by its ARN."""
        return json.dumps({"ResourceTags": self._budget(self._get_param("ResourceARN").rpartition("/")[2]).tags})

    def describe_subscribers_for_notification(self) -> str:
        """Who is told by one notification."""
        budget, asked = self._budget(self._get_param("BudgetName")), self._get_param("Notification")
        told = [one for notification in budget.notifications if notification.details == asked for one in notification.subscribers]
        return json.dumps({"Subscribers": told})

    def _budget(self, name: str) -> Any:
        """Raises NotFoundException."""
        found = self.backend.budgets[self.current_account].get(name)
        if found is None:
            raise NotFoundException(f"Unable to get budget: {name} - the budget doesn't exist.")
        return found
